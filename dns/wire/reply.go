package wire

import "encoding/binary"

// ownerPointer is a name that is the question's: a pointer to it, since that always stands behind the header.
const ownerPointer = pointerBits<<8 | HeaderLen

// optLen is the length of the OPT record that answers to EDNS queries end with.
const optLen = 11

// Section is a part of a message, in their order.
type Section uint8

// The sections of a message that hold records.
const (
	Answer Section = iota
	Authority
	Extra
)

// Reply is an answer in the making: Begin, then records in the order of sections, then Finish. It is used again and again, and
// allocates only if its buffer is smaller than the limit.
type Reply struct {
	// Rcode is the response code, of which the upper bits go into the OPT.
	Rcode int
	// Authoritative, Recursive and Authentic are the AA, RA and AD bits.
	Authoritative, Recursive, Authentic bool

	buf       []byte
	limit     int // what fits, the OPT already subtracted
	truncated bool
	counts    [3]uint16
}

// NewReply returns a Reply that can grow to size bytes.
func NewReply(size int) *Reply { return &Reply{buf: make([]byte, 0, size)} }

// Use makes the reply write into buf.
func (r *Reply) Use(buf []byte) { r.buf = buf[:0] }

// Limit is how many bytes the client takes: size is what the transport can carry.
func (q *Query) Limit(size int) int {
	if size > MaxUDP {
		return size
	}
	if !q.EDNS {
		return min(MinUDP, size)
	}
	return min(max(int(q.UDPSize), MinUDP), size)
}

// Begin starts the answer to the query of pkt, whose question it repeats byte for byte, case included.
func (r *Reply) Begin(q *Query, pkt []byte, limit int) {
	r.Rcode, r.Authoritative, r.Recursive, r.Authentic, r.truncated = NoError, false, false, false, false
	r.counts = [3]uint16{}
	r.limit = limit
	if q.EDNS {
		r.limit -= optLen
	}
	r.buf = append(r.buf[:0], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	if q.End > 0 {
		r.buf = append(r.buf, pkt[HeaderLen:q.End]...)
	}
}

// Len is how long the message is so far; Bytes is what there is of it.
func (r *Reply) Len() int { return len(r.buf) }

// Bytes is the message, complete after Finish.
func (r *Reply) Bytes() []byte { return r.buf }

// Count is the number of records of a section.
func (r *Reply) Count(s Section) int { return int(r.counts[s]) }

// Truncated says whether records were left out that the client needs.
func (r *Reply) Truncated() bool { return r.truncated }

// Pointer is a compressed name: the one that stands at the offset.
func Pointer(offset int) uint16 { return pointerBits<<8 | uint16(offset) }

// QuestionOwner is the pointer to the question's name.
const QuestionOwner uint16 = ownerPointer

// Fixed adds records of equal length to the answer, starting with the turn-th so that clients who take the first spread, as
// many as fit. Each begins with a pointer to its owner, which is set to owner.
func (r *Reply) Fixed(s Section, records []byte, stride, turn int, owner uint16) {
	n := len(records) / stride
	fit := min(n, max(r.limit-len(r.buf), 0)/stride)
	if fit < n && s != Extra {
		r.truncated = true // RFC 2181 9: for what is required, not for what merely helps
	}
	if fit == 0 {
		return
	}
	at, start := len(r.buf), turn%n
	first := min(fit, n-start)
	r.buf = append(r.buf, records[start*stride:(start+first)*stride]...)
	r.buf = append(r.buf, records[:(fit-first)*stride]...)
	if owner != ownerPointer {
		for ; at < len(r.buf); at += stride {
			binary.BigEndian.PutUint16(r.buf[at:], owner)
		}
	}
	r.counts[s] += uint16(fit)
}

// Record adds a record whose data has the given length, and returns the place for that; nil where it does not fit.
func (r *Reply) Record(s Section, owner, rrtype uint16, ttl uint32, size int) []byte {
	at := len(r.buf)
	if at+12+size > r.limit {
		r.truncated = r.truncated || s != Extra
		return nil
	}
	r.buf = append(r.buf, byte(owner>>8), byte(owner), byte(rrtype>>8), byte(rrtype), 0, byte(ClassIN),
		byte(ttl>>24), byte(ttl>>16), byte(ttl>>8), byte(ttl), byte(size>>8), byte(size))
	r.buf = r.buf[:at+12+size]
	r.counts[s]++
	return r.buf[at+12:]
}

// Raw adds whole records that come after the question, of which names may point into it, as Strip returned them.
func (r *Reply) Raw(records []byte, counts [3]uint16) {
	if len(r.buf)+len(records) <= r.limit {
		r.buf = append(r.buf, records...)
		r.counts = counts
		return
	}
	// Only answers are worth cutting: the rest helps nobody who has to come back by TCP.
	at := 0
	for range counts[Answer] {
		body, ok := SkipName(records, at)
		if !ok || body+10 > len(records) {
			break
		}
		end := body + 10 + int(binary.BigEndian.Uint16(records[body+8:]))
		if end > len(records) || len(r.buf)+end > r.limit {
			break
		}
		at = end
		r.counts[Answer]++
	}
	r.buf = append(r.buf, records[:at]...)
	r.truncated = r.truncated || r.counts[Answer] < counts[Answer] || counts[Answer] == 0
}

// Finish writes the header and the OPT, and returns the message, which is valid until the next Begin.
func (r *Reply) Finish(q *Query) []byte {
	flags := uint16(flagQR) | q.Flags&(opcodeMask|flagRD|flagCD) | uint16(r.Rcode&0xf)
	for _, f := range [...]struct {
		on  bool
		bit uint16
	}{{r.Authoritative, flagAA}, {r.truncated, flagTC}, {r.Recursive, flagRA}, {r.Authentic, flagAD}} {
		if f.on {
			flags |= f.bit
		}
	}
	extra := r.counts[Extra]
	if q.EDNS {
		extra++
		do := byte(0)
		if q.DO {
			do = doBit >> 8
		}
		r.buf = append(r.buf, 0, 0, byte(TypeOPT), MaxUDP>>8, MaxUDP&0xff, byte(r.Rcode>>4), 0, do, 0, 0, 0)
	}
	h := r.buf[:HeaderLen]
	binary.BigEndian.PutUint16(h, q.ID)
	binary.BigEndian.PutUint16(h[2:], flags)
	binary.BigEndian.PutUint16(h[4:], 0)
	if q.End > 0 {
		h[5] = 1
	}
	binary.BigEndian.PutUint16(h[6:], r.counts[Answer])
	binary.BigEndian.PutUint16(h[8:], r.counts[Authority])
	binary.BigEndian.PutUint16(h[10:], extra)
	return r.buf
}
