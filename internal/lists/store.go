// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sotto/forwarder/rules"
)

const (
	// headerLen is the length of the first line of a file, a comment padded with blanks. A
	// URL of the maximum length, all escaped, and two header fields fit.
	headerLen = 16 << 10

	// MaxURL is the maximum length of a URL in bytes.
	MaxURL = 2048

	// maxField is the maximum length of a header field that is stored, in bytes. A longer
	// one is not stored.
	maxField = 512

	// leftoverAge is when a temporary file is certainly not in use any more.
	leftoverAge = time.Hour

	suffix    = ".list"
	tmpSuffix = ".new"
)

// Info describes a list in a store. It is the first line of the file, in JSON.
type Info struct {
	URL      string    `json:"url"`
	ETag     string    `json:"etag,omitempty"`
	Modified string    `json:"last_modified,omitempty"` // as the server sent it
	Names    int       `json:"names"`
	Skipped  int       `json:"skipped"` // lines that are not names
	Hash     string    `json:"hash"`    // of the names, in their order
	Fetched  time.Time `json:"fetched"` // when the names last changed

	// Checked is when the server last confirmed the list: the time of the file.
	Checked time.Time `json:"-"`
}

// Store is a directory of lists. It is created when the first list is stored. The zero value
// is not valid.
type Store struct{ Dir string }

// Path returns the file of a list.
func (s Store) Path(url string) string { return filepath.Join(s.Dir, fileName(url)) }

func fileName(url string) string {
	sum := sha256.Sum256([]byte(url))
	return hex.EncodeToString(sum[:16]) + suffix
}

// open opens the directory, and creates it if create is set. It fails if another user can
// change its files, and thereby what is blocked.
func (s Store) open(create bool) (*os.Root, error) {
	if create {
		if err := os.MkdirAll(s.Dir, 0o700); err != nil {
			return nil, err
		}
	}
	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return nil, err
	}
	st, err := root.Stat(".")
	if err == nil {
		err = checkOwner(s.Dir, st)
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

func checkOwner(dir string, st fs.FileInfo) error {
	owner := st.Sys().(*syscall.Stat_t).Uid
	switch {
	case owner != 0 && int(owner) != os.Geteuid():
		return fmt.Errorf("%s belongs to user %d: use a directory of root or user %d", dir, owner, os.Geteuid())
	case st.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("other users can write to %s (mode %04o): chmod go-w %s", dir, st.Mode().Perm(), dir)
	}
	return nil
}

// stored is an open list, positioned at its names.
type stored struct {
	*os.File
	Info
}

// openList opens a list. The caller closes it.
func (s Store) openList(url string) (l stored, err error) {
	root, err := s.open(false)
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	f, err := root.Open(fileName(url))
	if err != nil {
		return l, err
	}
	if l.Info, err = readInfo(f, url); err != nil {
		return l, errors.Join(fmt.Errorf("%s is damaged: %w", s.Path(url), err), f.Close())
	}
	l.File = f
	return l, nil
}

var errHeader = errors.New("it does not start with the header that Sotto writes")

func readInfo(f *os.File, url string) (info Info, err error) {
	var line [headerLen]byte
	if _, err := io.ReadFull(f, line[:]); err != nil {
		return info, errHeader
	}
	text, ok := bytes.CutPrefix(bytes.TrimSpace(line[:]), []byte("#"))
	if !ok || json.Unmarshal(text, &info) != nil || info.URL != url || info.Names < 0 || info.Names > maxBytes/2 {
		return Info{}, errHeader
	}
	st, err := f.Stat()
	if err != nil {
		return Info{}, err
	}
	info.Checked = st.ModTime()
	return info, nil
}

// Info returns the description of a list. The error is [fs.ErrNotExist] if it was never
// fetched.
func (s Store) Info(url string) (Info, error) {
	l, err := s.openList(url)
	if err != nil {
		return Info{}, err
	}
	return l.Info, l.Close()
}

// Names returns the names of a list, as [rules.ReadNames] does, and its description. The error
// is [fs.ErrNotExist] if it was never fetched.
func (s Store) Names(url string) ([]string, Info, error) {
	l, err := s.openList(url)
	if err != nil {
		return nil, Info{}, err
	}
	var names []string
	err = rules.ScanNames(l, func(name string) error {
		if names == nil {
			names = make([]string, 0, l.Info.Names)
		}
		names = append(names, name)
		return nil
	}, func(err error) error { return err })
	if err == nil && len(names) != l.Info.Names {
		err = fmt.Errorf("it has %d names instead of %d", len(names), l.Info.Names)
	}
	if err = errors.Join(err, l.Close()); err != nil {
		return nil, Info{}, fmt.Errorf("%s is damaged: %w", s.Path(url), err)
	}
	return names, l.Info, nil
}

// Find returns the first entry of a list that matches a wire name, or "".
func (s Store) Find(url string, query []byte) (entry string, err error) {
	l, err := s.openList(url)
	if err != nil {
		return "", err
	}
	entry, err = rules.FindName(l, query)
	return entry, errors.Join(err, l.Close())
}

// touch records that the server has confirmed a list.
func (s Store) touch(url string, now time.Time) (err error) {
	root, err := s.open(false)
	if err != nil {
		return err
	}
	return errors.Join(root.Chtimes(fileName(url), now, now), root.Close())
}

// writer writes a list to a temporary file.
type writer struct {
	root *os.Root
	f    *os.File
	tmp  string // its name
	buf  *bufio.Writer
	info Info
	hash interface {
		io.Writer
		Sum([]byte) []byte
	}
}

// create starts a list. The caller calls commit or discard.
func (s Store) create(url string) (*writer, error) {
	root, err := s.open(true)
	if err != nil {
		return nil, err
	}
	removeLeftovers(root, time.Now())
	// Another process may fetch the same list during a takeover, so the name is unique.
	w := &writer{root: root, tmp: rand.Text() + tmpSuffix, info: Info{URL: url}, hash: sha256.New()}
	if w.f, err = root.OpenFile(w.tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	w.buf = bufio.NewWriterSize(io.MultiWriter(w.f, w.hash), 64<<10)
	if _, err := w.f.Seek(headerLen, io.SeekStart); err != nil {
		return nil, errors.Join(err, w.discard())
	}
	return w, nil
}

// removeLeftovers removes temporary files of processes that were killed.
func removeLeftovers(root *os.Root, now time.Time) {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return // there is nothing to gain from an error
	}
	for _, e := range entries {
		if st, err := e.Info(); err == nil && strings.HasSuffix(e.Name(), tmpSuffix) && now.Sub(st.ModTime()) > leftoverAge {
			_ = root.Remove(e.Name())
		}
	}
}

func (w *writer) add(name string) error {
	w.info.Names++
	_, err := w.buf.WriteString(name)
	return errors.Join(err, w.buf.WriteByte('\n'))
}

// commit completes the file and puts it in the place of the list's. It is durable before that:
// after a crash there is the old list or the new one.
func (w *writer) commit(now time.Time) (err error) {
	header, err := json.Marshal(w.info)
	if err != nil || len(header)+3 > headerLen {
		return errors.Join(fmt.Errorf("encode the header of a list: %d bytes", len(header)), err, w.discard())
	}
	line := bytes.Repeat([]byte(" "), headerLen)
	copy(line[copy(line, "# "):], header)
	line[headerLen-1] = '\n'
	_, err = w.f.WriteAt(line, 0)
	if err = errors.Join(err, w.f.Sync(), w.root.Chtimes(w.tmp, now, now)); err == nil {
		err = w.root.Rename(w.tmp, fileName(w.info.URL))
	}
	if err != nil {
		return errors.Join(err, w.discard())
	}
	return errors.Join(w.f.Close(), w.root.Close())
}

func (w *writer) discard() error {
	return errors.Join(w.f.Close(), w.root.Remove(w.tmp), w.root.Close())
}

// sum completes the names and sets their hash.
func (w *writer) sum() error {
	err := w.buf.Flush()
	w.info.Hash = hex.EncodeToString(w.hash.Sum(nil))
	return err
}
