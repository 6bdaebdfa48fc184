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
	"sync"
	"time"

	"sotto/forwarder/wire"
)

// The file format, big endian:
//
//	magic, version (4 bytes), time of saving (8, Unix nanoseconds), checksum (4)
//	chunks: length of the payload (4), checksum of that and the payload (4), payload
//
// A payload is one entry: the time it was stored (8), length of its key (2), key, and the
// reply in wire format, with EDEs in an OPT record, so that loading applies the same checks
// as for an upstream's reply. The last payload is the number of entries (8 bytes, shorter
// than any entry). It shows whether the file was truncated between two chunks.
//
// Properties that follow from the reply, such as its TTL, are not stored, so that they
// cannot contradict it.
const (
	magic         = "sotto cache\n"
	formatVersion = 1
	headerLen     = len(magic) + 4 + 8 + 4
	chunkHead     = 8
	payloadHead   = 10
	endLen        = 8
	maxKey        = wire.MaxName + 4 + maxSuffix
	maxPayload    = payloadHead + maxKey + wire.MaxMessage
)

var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

// fix ends the error messages for a file that cannot be read.
const fix = "delete the file: it contains only cached answers"

// Save writes the answers that are fresh or stale at now to w, in no particular order. The
// cache may be in use: answers that are stored or evicted during Save may or may not be
// included.
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
	if _, err := bw.Write(binary.BigEndian.AppendUint32(head, crc32.Checksum(head, castagnoli()))); err != nil {
		return err
	}
	var chunk []byte
	n, maxStale := uint64(0), c.cfg.Load().MaxStale
	for e := range c.data.Values() {
		if e.state(now.UnixNano(), maxStale) == Miss {
			continue
		}
		chunk = appendChunk(chunk[:0], e.appendPayload)
		if _, err := bw.Write(chunk); err != nil {
			return err
		}
		n++
	}
	bw.Write(appendChunk(chunk[:0], func(dst []byte) []byte { return binary.BigEndian.AppendUint64(dst, n) }))
	return bw.Flush() // also returns the error of the last Write
}

// appendChunk appends a chunk with the payload that the function appends.
func appendChunk(dst []byte, payload func([]byte) []byte) []byte {
	at := len(dst)
	dst = payload(append(dst, make([]byte, chunkHead)...))
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-chunkHead))
	binary.BigEndian.PutUint32(dst[at+4:], chunkSum(dst[at:at+4], dst[at+chunkHead:]))
	return dst
}

func chunkSum(length, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(length, castagnoli()), castagnoli(), payload)
}

// appendPayload appends the payload for e.
func (e *entry) appendPayload(dst []byte) []byte {
	msg, keyEnd, packed := e.tail()
	question := msg[wire.HeaderLen:e.qend]
	dst = binary.BigEndian.AppendUint64(dst, uint64(e.stored))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(question)+len(keyEnd)))
	dst = append(append(dst, question...), keyEnd...)
	// A query that gets everything, and OPT only if there are EDEs.
	var a Answer
	a.fill(e, e.stored)
	q := wire.Query{Msg: msg, QEnd: int(e.qend), RD: true, AD: true, EDNS: len(packed) > 0}
	return a.Append(dst, &q, 0)
}

// Load loads the answers of a file that [Cache.Save] wrote, except those that are a miss at
// now, and those that the cache has already. They keep the wall-clock time when they were
// stored, so their age includes the time in the file. The limits of the configuration apply
// as for replies of an upstream. n is the number of answers that were loaded.
//
// The file is not trusted: every reply is checked by [wire.ParseReply]. If the file is
// invalid, Load returns an error that ends with the fix, and keeps the answers before the
// fault. A file from the future, which was saved before the clock was set back, is refused,
// since the age of its answers is not known.
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
	// If the clock went back a little, the times of all entries are moved back as far,
	// so that no answer is younger than when the file was saved.
	back := saved - now.UnixNano()
	if back > int64(clockSlack) {
		return 0, fmt.Errorf("the file was saved at %s, which is in the future: %s, or set the clock",
			time.Unix(0, saved).UTC().Format(time.RFC3339), fix)
	}
	l := loader{c: c, cfg: c.cfg.Load(), now: now, saved: saved, back: max(back, 0)}
	if err := l.chunks(br); err != nil {
		return l.loaded, fmt.Errorf("entry %d: %w: %s", l.read+1, err, fix)
	}
	return l.loaded, nil
}

func readHeader(r io.Reader) (saved int64, err error) {
	var head [headerLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil && !isEOF(err) {
		return 0, err
	}
	if string(head[:len(magic)]) != magic {
		return 0, errors.New("this is not a file that Sotto saved its cache to: use another path, or delete it")
	}
	rest := head[len(magic):]
	if v := binary.BigEndian.Uint32(rest); v != formatVersion {
		return 0, fmt.Errorf("the file has format %d, and this version of Sotto reads %d: %s", v, formatVersion, fix)
	}
	if crc32.Checksum(head[:headerLen-4], castagnoli()) != binary.BigEndian.Uint32(head[headerLen-4:]) {
		return 0, fmt.Errorf("the file's header is damaged: %s", fix)
	}
	return int64(binary.BigEndian.Uint64(rest[4:])), nil
}

// isEOF reports whether err means the end of the file.
func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

var (
	errCut      = errors.New("the file ends early")
	errSum      = errors.New("its checksum is wrong")
	errLength   = errors.New("its length is invalid")
	errCount    = errors.New("the file has lost entries")
	errTrailing = errors.New("there are bytes after the end")
	errTime     = errors.New("it was stored before 1970, or after the file")
	errKey      = errors.New("its key and its question differ")
	errNotKept  = errors.New("it is a reply that is never cached")
)

// loader is the state of Load.
type loader struct {
	c            *Cache
	cfg          *Config
	now          time.Time
	saved, back  int64
	read, loaded int
	payload      []byte
}

// chunks reads all chunks, up to the end of r.
func (l *loader) chunks(r io.Reader) error {
	for {
		payload, err := l.chunk(r)
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

// chunk reads one chunk. The payload is valid until the next call.
func (l *loader) chunk(r io.Reader) ([]byte, error) {
	var head [chunkHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if isEOF(err) {
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
		if isEOF(err) {
			err = errCut
		}
		return nil, err
	}
	if chunkSum(head[:4], l.payload) != binary.BigEndian.Uint32(head[4:]) {
		return nil, errSum
	}
	return l.payload, nil
}

// entry loads one entry. A payload that Save would not have written is an error; one that
// has expired is not.
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
	if !cacheable(&r) {
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
		l.loaded++
	}
	return nil
}
