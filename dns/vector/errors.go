package vector

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/miekg/dns"
)

// Error is a packet that deserves no records.
type Error struct {
	What   string
	Packet []byte
	// Rcode is the answer's code by name, empty for a packet that deserves no answer.
	Rcode string
	// Question tells that the answer repeats the question.
	Question bool
}

// Errors are the forms of error. Each packet has an id of its own.
func Errors() []Error {
	plain := query(func(*dns.Msg) {})
	edns := query(func(m *dns.Msg) { m.SetEdns0(1232, true) })
	all := []Error{
		{What: "a header cut off", Packet: plain[:11]},
		{What: "a response", Packet: with(plain, 2, 0x81)},
		{What: "no question", Packet: with(plain, 5, 0), Rcode: "FORMERR"},
		{What: "two questions", Packet: with(plain, 5, 2), Rcode: "FORMERR"},
		{What: "a question cut off", Packet: plain[:len(plain)-1], Rcode: "FORMERR"},
		{What: "a name that points to itself", Packet: append(with(plain, 12, 0xc0)[:13], 12, 0, 1, 0, 1), Rcode: "FORMERR"},
		{What: "a label too long", Packet: with(plain, 12, 64), Rcode: "FORMERR"},
		{What: "an OPT that is missing", Packet: with(plain, 11, 1), Rcode: "FORMERR", Question: true},
		{What: "an OPT cut off", Packet: edns[:len(edns)-2], Rcode: "FORMERR", Question: true},
		{What: "two OPTs", Packet: append(with(edns, 11, 2), edns[len(edns)-11:]...), Rcode: "FORMERR", Question: true},
		{What: "NOTIFY", Packet: query(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), Rcode: "NOTIMP", Question: true},
		{What: "UPDATE", Packet: query(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), Rcode: "NOTIMP", Question: true},
		{What: "STATUS", Packet: query(func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus }), Rcode: "NOTIMP", Question: true},
		{What: "EDNS version 1", Packet: query(func(m *dns.Msg) { m.SetEdns0(1232, false).IsEdns0().SetVersion(1) }), Rcode: "BADVERS", Question: true},
		{What: "class CHAOS", Packet: query(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), Rcode: "REFUSED", Question: true},
		{What: "class ANY", Packet: query(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }), Rcode: "REFUSED", Question: true},
		{What: "AXFR", Packet: query(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }), Rcode: "REFUSED", Question: true},
		{What: "IXFR", Packet: query(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeIXFR }), Rcode: "REFUSED", Question: true},
		{What: "an unknown EDNS option", Packet: query(func(m *dns.Msg) {
			m.SetEdns0(1232, true).IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")}}
		}), Rcode: "NOERROR", Question: true},
		{What: "bytes behind the message", Packet: append(bytes.Clone(plain), 1, 2, 3), Rcode: "NOERROR", Question: true},
	}
	for i := range all {
		all[i].Packet = bytes.Clone(all[i].Packet)
		binary.BigEndian.PutUint16(all[i].Packet, uint16(1000+i))
	}
	return all
}

func query(change func(*dns.Msg)) []byte {
	m := new(dns.Msg).SetQuestion("Web.default.svc.cluster.local.", dns.TypeA)
	change(m)
	b, err := m.Pack()
	if err != nil {
		panic(err) // a table that is wrong
	}
	return b
}

func with(b []byte, at int, v byte) []byte {
	c := bytes.Clone(b)
	c[at] = v
	return c
}

// Check holds the bytes of an answer against the case and returns what differs.
func (e Error) Check(answer []byte) []string {
	var m dns.Msg
	if err := m.Unpack(answer); err != nil {
		return []string{fmt.Sprintf("the answer is malformed: %v", err)}
	}
	var out []string
	rcode := m.Rcode
	if opt := m.IsEdns0(); opt != nil {
		rcode |= opt.ExtendedRcode() &^ 0xf
		if len(opt.Option) > 0 || opt.Version() != 0 {
			out = append(out, fmt.Sprintf("OPT %v", opt))
		}
	}
	if dns.RcodeToString[rcode] != e.Rcode && (e.Rcode != "BADVERS" || rcode != dns.RcodeBadVers) {
		out = append(out, fmt.Sprintf("code %s, not %s", dns.RcodeToString[rcode], e.Rcode))
	}
	if m.Id != binary.BigEndian.Uint16(e.Packet) || !m.Response || (len(m.Question) == 1) != e.Question {
		out = append(out, fmt.Sprintf("header %v, questions %v", m.MsgHdr, m.Question))
	}
	return out
}
