// SPDX-License-Identifier: Apache-2.0

// Package dnstaptest reads dnstap files in tests, with the library of the dnstap project.
package dnstaptest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	dnstap "github.com/dnstap/golang-dnstap"
)

// Extra is what the field extra of a message has.
type Extra struct {
	Workload string `json:"workload"`
	Name     string `json:"workload_name"`
}

// Message is a message of a file, with its field extra.
type Message struct {
	*dnstap.Message
	Extra Extra
}

// Read returns the messages of a file.
func Read(t testing.TB, path string) []Message {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := Decode(f)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return all
}

// Decode returns the messages of a stream. The last one may be incomplete, and is then left out.
func Decode(in io.Reader) (all []Message, err error) {
	r, err := dnstap.NewReader(in, nil)
	if err != nil {
		return nil, err
	}
	for d := dnstap.NewDecoder(r, int(dnstap.MaxPayloadSize)); ; {
		var frame dnstap.Dnstap
		if err := d.Decode(&frame); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		m := Message{Message: frame.Message}
		if frame.Extra != nil {
			if err := json.Unmarshal(frame.Extra, &m.Extra); err != nil {
				return nil, fmt.Errorf("extra %q: %w", frame.Extra, err)
			}
		}
		all = append(all, m)
	}
}
