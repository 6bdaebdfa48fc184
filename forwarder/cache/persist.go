// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"io"
	"time"

	"sotto/forwarder/wire"
)

// The file format, big endian:
//
//	magic, version (4 bytes), when it was saved (8, Unix nanoseconds), checksum (4)
//	frames: length of the payload (4), checksum of that and the payload (4), payload
//
// A payload is one entry: when it was stored (8), length of its key (2), key, and
// the reply as an upstream might have sent it, EDEs in an OPT record and all, so
// that it is read back through the same checks. The last payload is the number
// of entries (8 bytes, shorter than any entry), which tells a whole file from
// one that was cut between two frames.
//
// No TTL stands there but the records' own, and nothing that the reply says
// itself: what does not exist cannot disagree.
const (
	magic         = "sotto cache\n"
	formatVersion = 1
	headerLen     = len(magic) + 4 + 8 + 4
	frameHead     = 8
	payloadHead   = 10
	endLen        = 8
	maxKey        = wire.MaxName + 4 + maxSuffix
	maxPayload    = payloadHead + maxKey + wire.MaxMessage
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// mend is what to do about a file that cannot be read.
const mend = "delete the file: it holds nothing but cached answers"

// Save writes the answers that are of use at now to w, in no order. The cache
// may be in use meanwhile: what is stored or evicted during Save may or may not
// be in it. Failures are not saved.
func (c *Cache) Save(w io.Writer, now time.Time) error {
	if err := c.save(w, now); err != nil {
		return fmt.Errorf("save the cache: %w", err)
	}
	return nil
}

func (c *Cache) save(w io.Writer, now time.Time) error {
	bw := bufio.NewWriterSize(w, 64<<10)
	head := append([]byte(magic), 0, 0, 0, formatVersion)
	head = binary.BigEndian.AppendUint64(head, uint64(now.UnixNano()))
	if _, err := bw.Write(binary.BigEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))); err != nil {
		return err
	}
	var frame []byte
	n, maxStale := uint64(0), c.cfg.Load().MaxStale
	for e := range c.data.Values() {
		if e.failure() || e.state(now.UnixNano(), maxStale) == Miss {
			continue
		}
		frame = appendFrame(frame[:0], e.appendPayload)
		if _, err := bw.Write(frame); err != nil {
			return err
		}
		n++
	}
	bw.Write(appendFrame(frame[:0], func(dst []byte) []byte { return binary.BigEndian.AppendUint64(dst, n) }))
	return bw.Flush() // which tells of the last Write too
}

// appendFrame appends the frame of what payload appends.
func appendFrame(dst []byte, payload func([]byte) []byte) []byte {
	at := len(dst)
	dst = payload(append(dst, make([]byte, frameHead)...))
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-frameHead))
	binary.BigEndian.PutUint32(dst[at+4:], frameSum(dst[at:at+4], dst[at+frameHead:]))
	return dst
}

func frameSum(length, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(length, castagnoli), castagnoli, payload)
}

// appendPayload appends what a file holds of e.
func (e *entry) appendPayload(dst []byte) []byte {
	msg, keyEnd, packed := e.tail()
	question := msg[wire.HeaderLen:e.qend]
	dst = binary.BigEndian.AppendUint64(dst, uint64(e.stored))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(question)+len(keyEnd)))
	dst = append(append(dst, question...), keyEnd...)
	// A client that wants all there is. OPT only where it has something to say.
	var a Answer
	a.fill(e, e.stored)
	q := wire.Query{Msg: msg, QEnd: int(e.qend), RD: true, AD: true, EDNS: len(packed) > 0}
	return a.Append(dst, &q, 0)
}

// Load takes in the answers of a file that [Cache.Save] wrote, but for those
// that are of no more use at now, and those that the cache has already. They
// count as stored when they were: the time between is counted on, by the wall
// clock, and the limits of the configuration hold as for what comes from an
// upstream. n is how many it took.
//
// The file is input like any other: every reply goes through [wire.ParseReply].
// Where something is wrong with it, Load returns an error that ends with the
// mend, and keeps what it read before that. A file from the future, which is
// one that was saved before the clock was set back, is refused: nobody knows how
// old its answers are.
func (c *Cache) Load(r io.Reader, now time.Time) (n int, err error) {
	if n, err = c.load(r, now); err != nil {
		return n, fmt.Errorf("load the cache: %w", err)
	}
	return n, nil
}

func (c *Cache) load(r io.Reader, now time.Time) (n int, err error) {
	br := bufio.NewReaderSize(r, 64<<10)
	saved, err := readHeader(br)
	if err != nil {
		return 0, err
	}
	// What it takes for the clock to go back a little: ages begin then, and
	// are not less than when the file was saved.
	back := saved - now.UnixNano()
	if back > int64(clockSlack) {
		return 0, fmt.Errorf("the file was saved at %s, which the clock says is yet to come: %s, or set the clock",
			time.Unix(0, saved).UTC().Format(time.RFC3339), mend)
	}
	l := loader{c: c, cfg: c.cfg.Load(), now: now, saved: saved, back: max(back, 0)}
	if err := l.frames(br); err != nil {
		return l.taken, fmt.Errorf("entry %d: %w: %s", l.read+1, err, mend)
	}
	return l.taken, nil
}

func readHeader(r io.Reader) (saved int64, err error) {
	var head [headerLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil && !cutOff(err) {
		return 0, err
	}
	if string(head[:len(magic)]) != magic {
		return 0, errors.New("this is not a file that Sotto saved its cache to: name another, or delete it")
	}
	rest := head[len(magic):]
	if v := binary.BigEndian.Uint32(rest); v != formatVersion {
		return 0, fmt.Errorf("the file has format %d, and this version of Sotto reads %d: %s", v, formatVersion, mend)
	}
	if crc32.Checksum(head[:headerLen-4], castagnoli) != binary.BigEndian.Uint32(head[headerLen-4:]) {
		return 0, fmt.Errorf("the file's header is damaged: %s", mend)
	}
	return int64(binary.BigEndian.Uint64(rest[4:])), nil
}

// cutOff tells whether err means the end of a file.
func cutOff(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

var (
	errCut      = errors.New("the file ends early")
	errSum      = errors.New("its checksum is wrong")
	errLength   = errors.New("its length cannot be")
	errCount    = errors.New("the file has lost entries")
	errTrailing = errors.New("something follows the end")
	errTime     = errors.New("it was stored before 1970, or after the file")
	errKey      = errors.New("its key and its question differ")
	errNotKept  = errors.New("it is nothing that is ever kept")
)

// loader is one Load.
type loader struct {
	c           *Cache
	cfg         *Config
	now         time.Time
	saved, back int64
	read, taken int
	payload     []byte
}

// frames reads all frames, up to the end of r.
func (l *loader) frames(r io.Reader) error {
	for {
		payload, err := l.frame(r)
		if err != nil {
			return err
		}
		if len(payload) == endLen {
			break
		}
		if err := l.entry(payload); err != nil {
			return err
		}
		l.read++
	}
	if binary.BigEndian.Uint64(l.payload) != uint64(l.read) {
		return errCount
	}
	if _, err := io.ReadFull(r, make([]byte, 1)); err != io.EOF {
		if err == nil {
			err = errTrailing
		}
		return err
	}
	return nil
}

// frame reads one frame. Its payload is good until the next.
func (l *loader) frame(r io.Reader) ([]byte, error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if cutOff(err) {
			err = errCut
		}
		return nil, err
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	if n > maxPayload || n != endLen && n <= payloadHead {
		return nil, errLength
	}
	if int64(cap(l.payload)) < n {
		l.payload = make([]byte, n)
	}
	l.payload = l.payload[:n]
	if _, err := io.ReadFull(r, l.payload); err != nil {
		if cutOff(err) {
			err = errCut
		}
		return nil, err
	}
	if frameSum(head[:4], l.payload) != binary.BigEndian.Uint32(head[4:]) {
		return nil, errSum
	}
	return l.payload, nil
}

// entry takes in one entry. A payload that Save would not have written is an
// error; one that is of no more use is not.
func (l *loader) entry(payload []byte) error {
	stored := int64(binary.BigEndian.Uint64(payload))
	keyLen := int(binary.BigEndian.Uint16(payload[8:]))
	if payloadHead+keyLen > len(payload) {
		return errLength
	}
	key, msg := payload[payloadHead:payloadHead+keyLen], payload[payloadHead+keyLen:]
	if stored < 0 || stored > l.saved+int64(clockSlack) {
		return errTime
	}
	r, err := wire.ParseReply(msg)
	if err != nil {
		return err
	}
	if !keyFits(key, &r) {
		return errKey
	}
	if !keeps(&r) {
		return errNotKept
	}
	if !l.cfg.fits(key, &r) {
		return nil
	}
	e := l.cfg.newEntry(key, &r, time.Unix(0, stored-l.back))
	if e.state(l.now.UnixNano(), l.cfg.MaxStale) == Miss {
		return nil
	}
	if _, added := l.c.data.SetIfAbsent(maphash.Bytes(l.c.seed, key), e); added {
		l.taken++
	}
	return nil
}
