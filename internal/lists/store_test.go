// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sotto/forwarder/wire"
)

const testURL = "https://lists.example/a"

// put stores a list.
func put(t testing.TB, s Store, names ...string) {
	t.Helper()
	w, err := s.create(testURL)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		err = errors.Join(err, w.add(name))
	}
	if err = errors.Join(err, w.sum(), w.commit(time.Now())); err != nil {
		t.Fatal(err)
	}
}

// TestDamaged: a file that is not complete, or of another list, is not used.
func TestDamaged(t *testing.T) {
	s := Store{t.TempDir()}
	put(t, s, "a.example", "b.example")
	file := s.Path(testURL)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for what, damaged := range map[string]string{
		"empty":         "",
		"no header":     "a.example\n",
		"header cut":    string(good[:headerLen/2]),
		"names cut":     string(good[:len(good)-10]),
		"another list":  strings.Replace(string(good), testURL, "https://lists.example/b", 1),
		"another name":  string(good) + "c.example\n",
		"not a name":    strings.Replace(string(good), "a.example", "||a......", 1),
		"header's JSON": strings.Replace(string(good), "{", "[", 1),
	} {
		if err := os.WriteFile(file, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		names, info, err := s.Names(testURL)
		if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), file+" is damaged") || names != nil || info != (Info{}) {
			t.Errorf("%s: %q, %+v, %v", what, names, info, err)
		}
	}
}

// TestOwner: a directory that another user can write to is not used, and no link leads out of
// the directory.
func TestOwner(t *testing.T) {
	dir := t.TempDir()
	s := Store{dir}
	put(t, s, "a.example")
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Names(testURL); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Error(err)
	}
	if _, err := s.create(testURL); err == nil {
		t.Error("a list was created")
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	if err := errors.Join(os.Rename(s.Path(testURL), out), os.Symlink(out, s.Path(testURL))); err != nil {
		t.Fatal(err)
	}
	if names, _, err := s.Names(testURL); err == nil {
		t.Errorf("read through a link: %q", names)
	}
	put(t, s, "b.example") // replaces the link
	if text, err := os.ReadFile(out); err != nil || !strings.HasSuffix(string(text), "a.example\n") {
		t.Errorf("written through a link: %v", err)
	}
}

func TestFind(t *testing.T) {
	s := Store{t.TempDir()}
	put(t, s, "=a.example", "b.example")
	for name, want := range map[string]string{"a.example": "=a.example", "x.a.example": "", "x.b.example": "b.example"} {
		q, err := wire.AppendParsed(nil, name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Find(testURL, q); got != want || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// TestLeftovers: temporary files of killed processes are removed, others are not.
func TestLeftovers(t *testing.T) {
	s := Store{t.TempDir()}
	old := time.Now().Add(-2 * leftoverAge)
	for _, name := range []string{"old" + tmpSuffix, "new" + tmpSuffix, "old.txt"} {
		file := filepath.Join(s.Dir, name)
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(name, "old") {
			if err := os.Chtimes(file, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(t, s, "a.example")
	for name, want := range map[string]bool{"old" + tmpSuffix: false, "new" + tmpSuffix: true, "old.txt": true} {
		if _, err := os.Lstat(filepath.Join(s.Dir, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
