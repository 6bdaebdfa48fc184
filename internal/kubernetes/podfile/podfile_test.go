// SPDX-License-Identifier: Apache-2.0

package podfile

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestWriteAndRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pods.json")
	want := File{
		Version: Version, Node: "kh",
		Namespaces: map[string]Namespace{"one": {Labels: map[string]string{"team": "a"}}, "two": {Seal: SealOff}},
		Pods:       []Pod{{UID: "1-2", Namespace: "one", Name: "a", Labels: map[string]string{"app": "web"}, Seal: SealOn}},
	}
	for range 2 { // the second replaces the first
		if err := Write(path, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Read(path)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v: want only the file", entries, err)
	}
	if err := Write(filepath.Join(dir, "none", "pods.json"), want); err == nil {
		t.Error("written to a directory that does not exist")
	}
	if err := Write(dir, want); err == nil {
		t.Error("written over a directory")
	}
	if entries, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v: a temporary file is left", entries, err)
	}
}

func TestReadRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pods.json")
	text := `{"version":1,"node":"kh","pods":[]}`
	write := func(text string, mode os.FileMode) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(want string) {
		t.Helper()
		if _, err := Read(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	write(text, 0o644)
	if _, err := Read(path); err != nil {
		t.Error(err)
	}
	write(text, 0o646)
	refused("other users can write to it (mode 646)")
	write(text, 0o660)
	refused("other users can write to it")
	write(`{"version":2}`, 0o600)
	refused("its version is 2")
	write(`{"version":1,"pods":[{"uid":"x"}]}`, 0o600)
	refused("a pod has no UID, namespace or name")
	write(`{"version":1,`, 0o600)
	refused("unexpected end")
	if os.Geteuid() == 0 {
		write(text, 0o600)
		if err := os.Chown(path, 4711, 0); err != nil {
			t.Fatal(err)
		}
		refused("it belongs to user 4711")
	}
	if err := os.Rename(path, path+".x"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path+".x", path); err != nil {
		t.Fatal(err)
	}
	refused("too many levels of symbolic links")
}
