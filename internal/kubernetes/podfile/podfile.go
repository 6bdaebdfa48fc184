// SPDX-License-Identifier: Apache-2.0

package podfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Version is the version of the format. A file of another version is refused.
const Version = 1

// SealAnnotation is the annotation of a pod or a namespace that says whether it is sealed, with the
// values [SealOn] and [SealOff]. That of the pod wins.
const (
	SealAnnotation = "sotto/seal"
	SealOn         = "on"
	SealOff        = "off"
)

// File is the content.
type File struct {
	Version    int                  `json:"version"`
	Node       string               `json:"node"` // whose pods these are
	Namespaces map[string]Namespace `json:"namespaces"`
	Pods       []Pod                `json:"pods"`
}

// Namespace is a namespace that may have pods on the node.
type Namespace struct {
	Labels map[string]string `json:"labels,omitempty"`
	Seal   string            `json:"seal,omitempty"` // the value of the annotation
}

// Pod is a pod of the node.
type Pod struct {
	UID       string            `json:"uid"` // as in the name of its cgroup
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Labels    map[string]string `json:"labels,omitempty"`
	Seal      string            `json:"seal,omitempty"`
}

// maxFile limits the file. A pod takes less than a kilobyte, except for one with very many labels.
const maxFile = 64 << 20

// Encode returns the text of a file.
func Encode(f File) ([]byte, error) {
	f.Version = Version
	return json.Marshal(f)
}

// Decode parses the text of a file.
func Decode(text []byte) (f File, err error) {
	if err := json.Unmarshal(text, &f); err != nil {
		return f, err
	}
	if f.Version != Version {
		return f, fmt.Errorf("its version is %d, and this program reads version %d: use a sotto-kubernetes of the same release", f.Version, Version)
	}
	for _, p := range f.Pods {
		if p.UID == "" || p.Namespace == "" || p.Name == "" {
			return f, fmt.Errorf("a pod has no UID, namespace or name: %+v", p)
		}
	}
	return f, nil
}

// Write replaces the file at path in one step.
func Write(path string, f File) (err error) {
	text, err := Encode(f)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(tmp.Name()))
	}
	return err
}

// Read reads the file at path. It must belong to root or the user of this process, and no other
// user may be able to write to it: it decides which pods leave in plain.
func Read(path string) (f File, err error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return f, err
	}
	defer file.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return f, fmt.Errorf("check the owner: %w", err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return f, errors.New("it is not a regular file")
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return f, fmt.Errorf("it belongs to user %d: run sotto-kubernetes as root or as Sotto's user", st.Uid)
	case st.Mode&0o022 != 0:
		return f, fmt.Errorf("other users can write to it (mode %o): remove that permission", st.Mode&0o777)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return f, err
	}
	if len(text) > maxFile {
		return f, fmt.Errorf("it is larger than %d bytes", maxFile)
	}
	return Decode(text)
}
