package bench

import (
	"encoding/json"
	"fmt"
	"io"
)

// DNSReport is what the DNS benchmark found.
type DNSReport struct {
	Report[DNSRow]
	Servers []DNSServerRow `json:"servers,omitempty"`
}

// DNSRow is one server with one kind of name, medians over the rounds. A walk has times alone.
type DNSRow struct {
	// Services is how many there were, 0 where none were made.
	Services         int     `json:"services,omitempty"`
	Server           string  `json:"server"`
	Case             string  `json:"case"`
	QueriesPerSecond float64 `json:"queriesPerSecond"`
	// P50Us and P99Us are with one outstanding.
	P50Us float64 `json:"p50Us"`
	P99Us float64 `json:"p99Us"`
	// CPUUsPerQuery is CPU time of the whole machine, client included, ServerCPUUsPerQuery that of the server's process: 0 where it is
	// not known.
	CPUUsPerQuery       float64 `json:"cpuUsPerQuery"`
	ServerCPUUsPerQuery float64 `json:"serverCpuUsPerQuery,omitempty"`
	// Rate is half of what the last peer can do; the times are at that many look-ups a second. Lost had no answer within a second.
	Rate       int     `json:"rate,omitempty"`
	PacedP50Us float64 `json:"pacedP50Us,omitempty"`
	PacedP99Us float64 `json:"pacedP99Us,omitempty"`
	Lost       int     `json:"lost,omitempty"`
	// DNSPerf is what dnsperf finds, 0 where it is not installed.
	DNSPerf float64 `json:"dnsperfPerSecond,omitempty"`
}

// DNSServerRow is what a server is beside its look-ups. Milliseconds run from the acknowledged request to the first answer that
// follows it.
type DNSServerRow struct {
	Services int    `json:"services"`
	Server   string `json:"server"`
	// MemoryMiB is resident; AnonymousMiB the part of it that is not the program itself. 0 for the cluster's own server, which is a part
	// of the node.
	MemoryMiB    float64 `json:"memoryMiB,omitempty"`
	AnonymousMiB float64 `json:"anonymousMiB,omitempty"`
	CreateP50Ms  float64 `json:"createP50Ms"`
	CreateP99Ms  float64 `json:"createP99Ms"`
	// AskedP99Ms is for names that were asked for before they were there.
	AskedP99Ms  float64 `json:"askedP99Ms"`
	DeleteP99Ms float64 `json:"deleteP99Ms"`
}

var dnsColumns = columns[DNSRow]{"SERVER\tNAME\tQUERIES/S\tP50\tP99\tCPU/QUERY", func(r DNSRow) []any {
	return []any{r.Server, r.Case, fmt.Sprintf("%.0f", r.QueriesPerSecond), us(r.P50Us), us(r.P99Us), us(r.CPUUsPerQuery)}
}}

var besideColumns = columns[DNSRow]{"SERVICES\tSERVER\tNAME\tQUERIES/S\tDNSPERF/S\tP50\tP99\tAT\tP50\tP99\tLOST\tCPU/QUERY\tOF SERVER", func(r DNSRow) []any {
	if r.Case == caseWalk {
		return []any{r.Services, r.Server, r.Case, "", "", us(r.P50Us), us(r.P99Us), "", "", "", "", "", ""}
	}
	return []any{r.Services, r.Server, r.Case, fmt.Sprintf("%.0f", r.QueriesPerSecond), known("%.0f", r.DNSPerf), us(r.P50Us), us(r.P99Us),
		fmt.Sprintf("%d/s", r.Rate), us(r.PacedP50Us), us(r.PacedP99Us), r.Lost, us(r.CPUUsPerQuery), known("%.1f us", r.ServerCPUUsPerQuery)}
}}

var serverColumns = columns[DNSServerRow]{"SERVICES\tSERVER\tMEMORY\tANONYMOUS\tCREATED P50\tP99\tASKED BEFORE P99\tDELETED P99", func(r DNSServerRow) []any {
	return []any{r.Services, r.Server, known("%.1f MiB", r.MemoryMiB), known("%.1f MiB", r.AnonymousMiB),
		tenths(r.CreateP50Ms), tenths(r.CreateP99Ms), tenths(r.AskedP99Ms), tenths(r.DeleteP99Ms)}
}}

func tenths(ms float64) string { return fmt.Sprintf("%.1f ms", ms) }

// known is empty for a figure that was not taken.
func known(format string, v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf(format, v)
}

func (r DNSReport) write(out io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	if len(r.Servers) == 0 {
		return write(out, r.Report, dnsColumns, false)
	}
	if err := write(out, r.Report, besideColumns, false); err != nil {
		return err
	}
	fmt.Fprintln(out)
	return write(out, Report[DNSServerRow]{Rows: r.Servers}, serverColumns, false)
}

// compare sets each server's figures in relation to those of the last one, which is the peer.
func (r *DNSReport) compare() {
	r.Ratios = map[string]float64{}
	for _, row := range r.Rows {
		for _, peer := range r.Rows {
			if peer.Services == row.Services && peer.Case == row.Case && peer.Server != row.Server && peer.Server == r.Rows[len(r.Rows)-1].Server {
				r.ratios(row, peer)
			}
		}
	}
	for _, row := range r.Servers {
		for _, peer := range r.Servers {
			if last := r.Servers[len(r.Servers)-1].Server; peer.Services == row.Services && peer.Server == last && row.Server != last && row.MemoryMiB > 0 {
				of := fmt.Sprintf("%s to %s, %d Services", row.Server, peer.Server, row.Services)
				r.Ratios[of+", memory"] = ratio(row.MemoryMiB, peer.MemoryMiB)
				r.Ratios[of+", anonymous memory"] = ratio(row.AnonymousMiB, peer.AnonymousMiB)
			}
		}
	}
}

func (r *DNSReport) ratios(row, peer DNSRow) {
	of := fmt.Sprintf("%s to %s, %d Services, %s", row.Server, peer.Server, row.Services, row.Case)
	for figure, values := range map[string][2]float64{
		"look-ups a second": {row.QueriesPerSecond, peer.QueriesPerSecond}, "p50": {row.P50Us, peer.P50Us}, "p99": {row.P99Us, peer.P99Us},
		"paced p50": {row.PacedP50Us, peer.PacedP50Us}, "paced p99": {row.PacedP99Us, peer.PacedP99Us},
		"CPU": {row.CPUUsPerQuery, peer.CPUUsPerQuery}, "server CPU": {row.ServerCPUUsPerQuery, peer.ServerCPUUsPerQuery},
	} {
		if values[0] > 0 && values[1] > 0 {
			r.Ratios[of+", "+figure] = ratio(values[0], values[1])
		}
	}
}
