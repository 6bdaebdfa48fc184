// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"sotto/internal/e2e/client"
)

// clientEnv makes a test binary run as the client that it names.
const clientEnv = "SOTTO_TEST_CLIENT"

// RaceEnv removes the second by which the race detector delays the exit of every process.
const RaceEnv = "GORACE=atexit_sleep_ms=0"

// Main runs the tests of a package, or a client if the test binary was started as one. It
// does not return.
func Main(m *testing.M) {
	if name := os.Getenv(clientEnv); name != "" {
		os.Exit(client.Main(name, os.Args[1:]))
	}
	status := m.Run()
	program.remove()
	os.Exit(status)
}

// Client returns the command line of a client of package client.
func Client(name string, args ...string) []string {
	return append([]string{"env", clientEnv + "=" + name, RaceEnv, executable()}, args...)
}

// executable returns the path of this test binary.
func executable() string {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return path
}

// Program is how sotto is started: an executable and additional environment variables.
type Program struct {
	Path string
	Env  []string
}

// program is the program that this test process has built.
var program built

type built struct {
	once sync.Once
	dir  string
	err  error
}

// path builds the program on the first call, and returns its path.
func (b *built) path(t testing.TB) string {
	t.Helper()
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "sotto-e2e-"); b.err != nil {
			return
		}
		args := []string{"build"}
		if RaceDetector {
			args = append(args, "-race")
		}
		cmd := exec.Command("go", append(args, "-o", filepath.Join(b.dir, "sotto"), "sotto/cmd/sotto")...)
		cmd.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -buildvcs=false")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("build sotto: %w\n%s", err, out)
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return filepath.Join(b.dir, "sotto")
}

// programVar names a program that was built from this tree already.
const programVar = "SOTTO_TEST_PROGRAM"

// Build builds the program once per process, with the race detector if the tests have it, and
// returns its path. If the environment has SOTTO_TEST_PROGRAM, that is the program.
func Build(t testing.TB) string {
	t.Helper()
	if path := os.Getenv(programVar); path != "" {
		return path
	}
	return program.path(t)
}

func (b *built) remove() {
	if b.dir != "" {
		_ = os.RemoveAll(b.dir)
	}
}
