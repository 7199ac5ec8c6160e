package vector

import (
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Check holds an answer against the case and returns what differs. The SOA's serial is not compared.
func (c Case) Check(m *dns.Msg) []string {
	var out []string
	differs := func(what string, got, want any) { out = append(out, fmt.Sprintf("%s is %v, not %v", what, got, want)) }
	if got := dns.RcodeToString[m.Rcode]; got != c.Rcode {
		differs("code", got, c.Rcode)
	}
	if !m.Authoritative || !m.Response || m.RecursionAvailable || m.Truncated {
		differs("header", m.MsgHdr, "an authoritative, whole answer")
	}
	if len(m.Question) != 1 || m.Question[0].Name != c.Name {
		differs("question", m.Question, c.Name)
	}
	if got, want := texts(m.Answer), sorted(c.Answer); !slices.Equal(got, want) {
		differs("answer", got, want)
	}
	if got, want := texts(m.Extra), sorted(c.Extra); !slices.Equal(got, want) {
		differs("extra", got, want)
	}
	denial := len(c.Answer) == 0 || c.Rcode == nxDomain || (m.Question[0].Qtype == dns.TypeAAAA && !strings.Contains(strings.Join(c.Answer, ""), " AAAA "))
	if got := len(m.Ns); denial != (got == 1) {
		differs("authority", m.Ns, "an SOA exactly if denied")
	} else if denial {
		soa, ok := m.Ns[0].(*dns.SOA)
		if !ok || !dns.IsSubDomain(soa.Hdr.Name, m.Question[0].Name) || soa.Minttl == 0 {
			differs("authority", m.Ns, "the SOA of an enclosing zone")
		}
	}
	return out
}

func texts(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs {
		h := rr.Header()
		if h.Rrtype == dns.TypeOPT {
			continue
		}
		data := strings.TrimPrefix(rr.String(), h.String())
		if soa, ok := rr.(*dns.SOA); ok {
			data = fmt.Sprintf("%s %s 42 %d %d %d %d", soa.Ns, soa.Mbox, soa.Refresh, soa.Retry, soa.Expire, soa.Minttl)
		}
		out = append(out, fmt.Sprintf("%s %s %s %s", h.Name, dns.ClassToString[h.Class], dns.TypeToString[h.Rrtype], data))
	}
	return sorted(out)
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }
