// Package wire reads DNS queries and writes answers as bytes (RFC 1035, RFC 6891), without allocation: what the hot path of
// the server is made of. Byte order is that of the network throughout.
package wire

import (
	"encoding/binary"
)

const (
	// HeaderLen is the length of a message's header, and so where the question begins.
	HeaderLen = 12
	// MinUDP is what a client without EDNS takes over UDP (RFC 1035 2.3.4).
	MinUDP = 512
	// MaxUDP is the largest answer over UDP, so that none is ever fragmented (DNS flag day 2020), and what our OPT offers.
	MaxUDP = 1232
	// MaxTCP is the largest message there is.
	MaxTCP = 65535
	// maxName is the longest name on the wire (RFC 1035 2.3.4).
	maxName = 255
	// maxLabels are the labels whose places a Query keeps: no name of a cluster has as many, and longer ones need none.
	maxLabels = 127
)

// Record types that answers here are made of.
const (
	TypeA     uint16 = 1
	TypeNS    uint16 = 2
	TypeCNAME uint16 = 5
	TypeSOA   uint16 = 6
	TypePTR   uint16 = 12
	TypeTXT   uint16 = 16
	TypeAAAA  uint16 = 28
	TypeSRV   uint16 = 33
	TypeOPT   uint16 = 41
	TypeIXFR  uint16 = 251
	TypeAXFR  uint16 = 252
	TypeANY   uint16 = 255
)

// ClassIN is the one class served.
const ClassIN uint16 = 1

// Response codes (RFC 1035 4.1.1, RFC 6891 9).
const (
	NoError  = 0
	FormErr  = 1
	ServFail = 2
	NXDomain = 3
	NotImp   = 4
	Refused  = 5
	BadVers  = 16
)

// Bits of the header's second word.
const (
	flagQR      = 1 << 15
	flagAA      = 1 << 10
	flagTC      = 1 << 9
	flagRD      = 1 << 8
	flagRA      = 1 << 7
	flagAD      = 1 << 5
	flagCD      = 1 << 4
	opcodeMask  = 0xf << 11
	doBit       = 1 << 15 // of an OPT's TTL field, its lower half
	pointerBits = 0xc0
)

// Status is what Parse makes of a packet.
type Status uint8

// What a packet can be.
const (
	// Valid is a query of one question.
	Valid Status = iota
	// Ignore is what gets no answer: shorter than a header, or a response.
	Ignore
	// Malformed deserves FORMERR; the Query has the header, and the question only where End is set.
	Malformed
	// Unknown is a query of another opcode than QUERY, which deserves NOTIMP.
	Unknown
)

// Query is one question as Parse found it. It refers to nothing outside, and is meant to be used again and again.
type Query struct {
	// ID and Flags are the first two words of the header.
	ID, Flags uint16
	// Type and Class are those of the question.
	Type, Class uint16
	// End is where the question ends in the packet, 0 where there is none.
	End int
	// EDNS tells that there was an OPT record; Version, DO and UDPSize are its fields.
	EDNS    bool
	DO      bool
	Version uint8
	UDPSize uint16

	name   [maxName + 9]byte // lower case; padded for eight bytes at a time
	length int
	labels [maxLabels]uint8 // where each label begins in name
	count  int
}

// Name is the question's name in wire form, lower case, valid until the next Parse.
func (q *Query) Name() []byte { return q.name[:q.length] }

// Labels is the number of labels, the root not counted.
func (q *Query) Labels() int { return q.count }

// Label is the i-th label from the left, without its length byte.
func (q *Query) Label(i int) []byte {
	at := int(q.labels[i])
	return q.name[at+1 : at+1+int(q.name[at])]
}

// From is the name from its i-th label on, in wire form: the whole for 0, the root for Labels().
func (q *Query) From(i int) []byte { return q.name[q.Offset(i):q.length] }

// Offset is where the i-th label begins in the name.
func (q *Query) Offset(i int) int {
	if i == q.count {
		return q.length - 1
	}
	return int(q.labels[i])
}

// RD and CD are bits that an answer repeats; AD asks for the bit in the answer (RFC 6840 5.7).
func (q *Query) RD() bool { return q.Flags&flagRD != 0 }

// CD is the checking-disabled bit.
func (q *Query) CD() bool { return q.Flags&flagCD != 0 }

// AD is the authentic-data bit.
func (q *Query) AD() bool { return q.Flags&flagAD != 0 }

// SetName makes name (wire form, any case) the question's name, for a look-up that no packet asked for.
func (q *Query) SetName(name []byte) bool {
	_, ok := q.readName(name, 0)
	return ok
}

// Parse reads a query. The Query's fields are all overwritten.
func (q *Query) Parse(pkt []byte) Status {
	q.End, q.length, q.count, q.Type, q.Class = 0, 0, 0, 0, 0
	q.EDNS, q.DO, q.Version, q.UDPSize = false, false, 0, 0
	if len(pkt) < HeaderLen {
		return Ignore
	}
	q.ID, q.Flags = binary.BigEndian.Uint16(pkt), binary.BigEndian.Uint16(pkt[2:])
	if q.Flags&flagQR != 0 {
		return Ignore
	}
	questions, records := binary.BigEndian.Uint16(pkt[4:]), binary.BigEndian.Uint16(pkt[6:])
	authority, extra := binary.BigEndian.Uint16(pkt[8:]), binary.BigEndian.Uint16(pkt[10:])
	ok := questions == 1 && q.question(pkt)
	if q.Flags&opcodeMask != 0 {
		return Unknown
	}
	if !ok || !q.records(pkt, int(records)+int(authority), int(extra)) {
		return Malformed
	}
	return Valid
}

func (q *Query) question(pkt []byte) bool {
	at, ok := q.readName(pkt, HeaderLen)
	if !ok || at+4 > len(pkt) {
		return false
	}
	q.Type, q.Class = binary.BigEndian.Uint16(pkt[at:]), binary.BigEndian.Uint16(pkt[at+2:])
	q.End = at + 4
	return q.Type != TypeOPT && q.Type != 0
}

// readName takes the name at the offset; a question's is never compressed.
func (q *Query) readName(pkt []byte, start int) (end int, ok bool) {
	at := start
	q.count = 0
	for {
		if at >= len(pkt) {
			return 0, false
		}
		n := int(pkt[at])
		if n == 0 {
			break
		}
		if n > 63 || at-start+n+2 > maxName || q.count == maxLabels {
			return 0, false
		}
		q.labels[q.count] = uint8(at - start)
		q.count++
		at += n + 1
	}
	at++
	q.length = copy(q.name[:maxName], pkt[start:at])
	lower(q.name[:], q.length)
	return at, true
}

// lower makes the first n bytes lower case, eight at a time. Length bytes are below 'A', so they stay.
func lower(b []byte, n int) {
	const ones = 0x0101010101010101
	for i := 0; i < n; i += 8 {
		v := binary.LittleEndian.Uint64(b[i:])
		seven := v & (0x7f * ones)
		// The top bit of a byte says: at least 'A', and not above 'Z'.
		upper := (seven + (0x80-'A')*ones) &^ (seven + (0x7f-'Z')*ones) &^ v & (0x80 * ones)
		binary.LittleEndian.PutUint64(b[i:], v|upper>>2)
	}
}

// records steps over the records behind the question and takes the OPT, of which there may be one, in the last section.
func (q *Query) records(pkt []byte, before, extra int) bool {
	at := q.End
	for i := range before + extra {
		root := at < len(pkt) && pkt[at] == 0
		body, ok := SkipName(pkt, at)
		if !ok || body+10 > len(pkt) {
			return false
		}
		rrtype, size := binary.BigEndian.Uint16(pkt[body:]), int(binary.BigEndian.Uint16(pkt[body+8:]))
		if body+10+size > len(pkt) {
			return false
		}
		if rrtype == TypeOPT {
			if q.EDNS || i < before || !root || !options(pkt[body+10:body+10+size]) {
				return false
			}
			q.EDNS, q.UDPSize = true, binary.BigEndian.Uint16(pkt[body+2:])
			q.Version, q.DO = pkt[body+5], binary.BigEndian.Uint16(pkt[body+6:])&doBit != 0
		}
		at = body + 10 + size
	}
	return true
}

// options says whether an OPT's data is a list of options, which are all ignored.
func options(b []byte) bool {
	for len(b) >= 4 {
		n := 4 + int(binary.BigEndian.Uint16(b[2:]))
		if n > len(b) {
			return false
		}
		b = b[n:]
	}
	return len(b) == 0
}

// SkipName returns where the possibly compressed name at the offset ends.
func SkipName(msg []byte, at int) (int, bool) {
	for at < len(msg) {
		switch n := int(msg[at]); {
		case n == 0:
			return at + 1, true
		case n&pointerBits == pointerBits:
			return at + 2, at+2 <= len(msg)
		case n > 63:
			return 0, false
		default:
			at += n + 1
		}
	}
	return 0, false
}
