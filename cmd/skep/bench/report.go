package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// Report is what a benchmark found. Rows are ServiceRow, DNSRow, DNSServerRow or PodsRow.
type Report[Row any] struct {
	Benchmark  string             `json:"benchmark"`
	Conditions map[string]any     `json:"conditions,omitempty"`
	Rows       []Row              `json:"rows"`
	Ratios     map[string]float64 `json:"ratios,omitempty"`
}

// ServiceRow is one way to a pod, medians over the rounds.
type ServiceRow struct {
	Path                 string  `json:"path"`
	ConnectionsPerSecond float64 `json:"connectionsPerSecond"`
	// SpreadPercent is half the distance between the quartiles of ConnectionsPerSecond, in percent of the median.
	SpreadPercent float64 `json:"spreadPercent"`
	// CPUUsPerConnection is the time of the whole machine for each connection.
	CPUUsPerConnection float64 `json:"cpuUsPerConnection"`
	ConnectP50Us       float64 `json:"connectP50Us"`
	ConnectP99Us       float64 `json:"connectP99Us"`
	RoundTripP50Us     float64 `json:"roundTripP50Us"`
	RoundTripP99Us     float64 `json:"roundTripP99Us"`
	ThroughputMbps     float64 `json:"throughputMbps"`
}

// PodsRow is one way to start pods. Milliseconds run from the create request to Running, or from the delete request to gone, both as a watch
// sees them.
type PodsRow struct {
	Case          string  `json:"case"`
	P50Ms         float64 `json:"p50Ms"`
	P99Ms         float64 `json:"p99Ms"`
	DeleteP50Ms   float64 `json:"deleteP50Ms"`
	PodsPerSecond float64 `json:"podsPerSecond"`
}

// columns makes the header and the cells of a row's table.
type columns[Row any] struct {
	header string
	cells  func(Row) []any
}

var (
	serviceColumns = columns[ServiceRow]{"PATH\tCONN/S\t\tCPU/CONN\tCONNECT P50\tP99\tROUND TRIP P50\tP99\tTHROUGHPUT", func(r ServiceRow) []any {
		return []any{r.Path, fmt.Sprintf("%.0f", r.ConnectionsPerSecond), fmt.Sprintf("±%.1f%%", r.SpreadPercent), us(r.CPUUsPerConnection), us(r.ConnectP50Us), us(r.ConnectP99Us),
			us(r.RoundTripP50Us), us(r.RoundTripP99Us), fmt.Sprintf("%.1f Gbit/s", r.ThroughputMbps/1000)}
	}}
	podsColumns = columns[PodsRow]{"CASE\tSTART P50\tP99\tDELETE P50\tPODS/S", func(r PodsRow) []any {
		return []any{r.Case, ms(r.P50Ms), ms(r.P99Ms), ms(r.DeleteP50Ms), fmt.Sprintf("%.1f", r.PodsPerSecond)}
	}}
)

func us(v float64) string { return fmt.Sprintf("%.1f us", v) }
func ms(v float64) string { return fmt.Sprintf("%.0f ms", v) }

// write prints the report as one JSON object or as a table.
func write[Row any](out io.Writer, r Report[Row], c columns[Row], asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, c.header)
	for _, row := range r.Rows {
		for i, cell := range c.cells(row) {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, cell)
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(r.Ratios)) {
		fmt.Fprintf(out, "%s: %.3f\n", name, r.Ratios[name])
	}
	return nil
}
