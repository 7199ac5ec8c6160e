package wire

import (
	"errors"
	"fmt"
	"strings"
)

// ErrName is returned for what is no domain name: an empty label, one longer than 63 bytes, or more than 255 in all.
var ErrName = errors.New("not a domain name")

// AppendName appends the wire form of a name in presentation form, with or without the final dot; escapes are not known, for
// no name of a cluster needs one.
func AppendName(b []byte, name string) ([]byte, error) {
	start := len(b)
	for rest := strings.TrimSuffix(name, "."); rest != ""; {
		label, tail, more := strings.Cut(rest, ".")
		if label == "" || len(label) > 63 || (more && tail == "") {
			return b[:start], fmt.Errorf("%q: %w", name, ErrName)
		}
		b = append(append(b, byte(len(label))), label...)
		rest = tail
	}
	if b = append(b, 0); len(b)-start > maxName {
		return b[:start], fmt.Errorf("%q: %w", name, ErrName)
	}
	return b, nil
}

// AppendLabel appends one label.
func AppendLabel(b []byte, label string) []byte {
	return append(append(b, byte(len(label))), label...)
}

// NameString is the presentation form of a whole name in wire form, with the final dot. Bytes that would confuse are escaped
// as RFC 1035 5.1 has it.
func NameString(name []byte) string {
	if len(name) <= 1 {
		return "."
	}
	var s strings.Builder
	for at := 0; at < len(name) && name[at] != 0; {
		n := int(name[at])
		for _, c := range name[at+1 : min(at+1+n, len(name))] {
			switch {
			case c == '.' || c == '\\' || c == '"' || c == '(' || c == ')' || c == ';' || c == '@' || c == '$' || c == ' ':
				s.WriteByte('\\')
				s.WriteByte(c)
			case c < '!' || c > '~':
				fmt.Fprintf(&s, "\\%03d", c)
			default:
				s.WriteByte(c)
			}
		}
		s.WriteByte('.')
		at += n + 1
	}
	return s.String()
}

// Reverse is the address whose name in the reverse zones this is (RFC 1035 3.5, RFC 3596 2.5), IPv4 mapped in
// 16 bytes. ok is false for any other name, partial ones included.
func (q *Query) Reverse() (addr [16]byte, v4, ok bool) {
	if q.count < 2 || string(q.Label(q.count-1)) != "arpa" {
		return addr, false, false
	}
	switch {
	case q.count == 6 && string(q.Label(4)) == "in-addr":
		addr[10], addr[11] = 0xff, 0xff
		for i := range 4 {
			if addr[15-i], ok = octet(q.Label(i)); !ok {
				return addr, true, false
			}
		}
		return addr, true, true
	case q.count == 34 && string(q.Label(32)) == "ip6":
		for i := range 32 {
			l := q.Label(i)
			v, ok := nibble(l[0])
			if len(l) != 1 || !ok {
				return addr, false, false
			}
			addr[15-i/2] |= v << (4 * (i % 2))
		}
		return addr, false, true
	}
	return addr, false, false
}

func octet(l []byte) (byte, bool) {
	if len(l) > 3 || (len(l) > 1 && l[0] == '0') {
		return 0, false
	}
	v := 0
	for _, c := range l {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + int(c-'0')
	}
	return byte(v), v < 256
}

func nibble(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}
