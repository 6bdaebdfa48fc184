// SPDX-License-Identifier: Apache-2.0

package network

import (
	"os"
	"strings"
	"testing"

	"sotto/internal/netlab/labtest"
)

// Where /proc/sys is read-only, as in a container, sysctls are set too, and only in the
// wanted namespace.
func TestWriteSysctl(t *testing.T) {
	l := labtest.New(t)
	here, there := labtest.Host(t, l, "here"), labtest.Host(t, l, "there")
	const name = "net/ipv4/ip_default_ttl"
	if err := here.Do(func() error { return writeSysctl(name, "77") }); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[interface{ Do(func() error) error }]bool{here: true, there: false} {
		err := at.Do(func() error {
			text, err := os.ReadFile("/proc/sys/" + name)
			if got := strings.TrimSpace(string(text)); (got == "77") != want {
				t.Errorf("the sysctl is %s", got)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	if err := here.Do(func() error { return writeSysctl("net/ipv4/nonsense", "1") }); !os.IsNotExist(err) {
		t.Errorf("a sysctl that does not exist: %v", err)
	}
}
