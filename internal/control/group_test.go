// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// peerEnv makes this test binary send the request "METHOD PATH TARGET" instead of running tests.
// With the method HOLD it first opens as many connections as readers may have.
const peerEnv = "SOTTO_TEST_PEER"

func TestMain(m *testing.M) {
	request := os.Getenv(peerEnv)
	if request == "" {
		os.Exit(m.Run())
	}
	f := strings.Fields(request)
	var err error
	if f[0] == "HOLD" { // and then GET
		f[0] = http.MethodGet
		for range maxReaders {
			c, err := net.Dial("unix", f[1])
			if err == nil {
				_, err = fmt.Fprintf(c, "GET /v1/hold HTTP/1.1\r\nHost: sotto\r\n\r\n")
			}
			if err != nil {
				fmt.Print(err)
				os.Exit(1)
			}
		}
	}
	if f[2] == replacePath {
		_, err = Replace(context.Background(), f[1], []byte("terms"))
	} else {
		_, err = Request(context.Background(), f[1], f[0], f[2], nil)
	}
	if err != nil {
		fmt.Print(err)
		os.Exit(1)
	}
}

// peer runs processes with other credentials.
type peer struct {
	t    *testing.T
	self string // a copy of this test binary that all users can run
	dir  string // a directory that all users can enter
}

const (
	testUser  = 65534
	testGroup = 4242
)

func newPeer(t *testing.T) peer {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to start processes of other users")
	}
	dir, err := os.MkdirTemp("", "sotto-peer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	text, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(dir, "peer")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(self, text, 0o755), os.Chmod(self, 0o755)); err != nil {
		t.Fatal(err)
	}
	return peer{t, self, dir}
}

// ask sends a request from a process with the given user ID and supplementary group, and returns
// the reason of its failure.
func (p peer) ask(uid, group uint32, method, path, target string) (reason string) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), p.self)
	cmd.Env = []string{peerEnv + "=" + method + " " + path + " " + target}
	cmd.Dir = p.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: []uint32{group}}}
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		p.t.Fatal(err)
	}
	if err != nil && len(out) == 0 {
		p.t.Fatalf("no reason: %v", err)
	}
	return string(out)
}

// TestPeerOnlyReads: a member of the group may read, but not change anything; other users cannot
// connect.
func TestPeerOnlyReads(t *testing.T) {
	p := newPeer(t)
	path := filepath.Join(p.dir, "run", "control.sock")
	l, err := Listen(t.Context(), path, testGroup)
	if err != nil {
		t.Fatal(err)
	}
	var changes atomic.Int64
	changed := func(w http.ResponseWriter, _ *http.Request) { changes.Add(1); fmt.Fprintln(w, "changed") }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- l.Serve(ctx, Handlers{
			Reload:  func(context.Context) error { changes.Add(1); return nil },
			Replace: func([]byte) (func(*net.UnixConn), error) { changes.Add(1); return nil, errors.New("no") },
			Routes: map[string]http.HandlerFunc{
				"GET /v1/status": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "{}") },
				"GET /v1/hold":   func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
				"POST /v1/flush": changed, "/v1/any": changed,
			},
		})
	}()
	for _, tc := range []struct {
		uid, group           uint32
		method, target, want string
	}{
		{testUser, testGroup, "GET", "/v1/status", ""},
		{testUser, testGroup, "POST", "/reload", "members of control-group may only read"},
		{testUser, testGroup, "POST", replacePath, "members of control-group may only read"},
		{testUser, testGroup, "POST", "/v1/flush", "members of control-group may only read"},
		{testUser, testGroup, "DELETE", "/v1/any", "members of control-group may only read"},
		{testUser, testUser, "GET", "/v1/status", "permission denied: run this as root"},
	} {
		if got := p.ask(tc.uid, tc.group, tc.method, path, tc.target); !strings.Contains(got, tc.want) || (tc.want == "") != (got == "") {
			t.Errorf("%+v: %q", tc, got)
		}
	}
	if n := changes.Load(); n != 0 {
		t.Errorf("%d changes by members of the group", n)
	}
	// Root needs no membership.
	if got := p.ask(0, 0, "POST", path, "/reload"); got != "" || changes.Load() != 1 {
		t.Errorf("root: %q, %d changes", got, changes.Load())
	}
	// Readers cannot use up connections, and those that have exited do not count.
	if got := p.ask(testUser, testGroup, "HOLD", path, "/v1/status"); !strings.Contains(got, "too many connections of members") {
		t.Errorf("one reader too many: %q", got)
	}
	for p.ask(testUser, testGroup, "GET", path, "/v1/status") != "" { // until the end of those is noticed
	}
	if got := p.ask(0, 0, "HOLD", path, "/v1/status"); got != "" {
		t.Errorf("root is limited: %q", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// serveFor listens at path for testGroup, answers requests until the test ends, and reports whether
// it could.
func serveFor(t *testing.T, path string) bool {
	t.Helper()
	l, err := Listen(t.Context(), path, testGroup)
	if err != nil {
		t.Error(err)
		return false
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- l.Serve(ctx, Handlers{Routes: map[string]http.HandlerFunc{"GET /v1/status": func(http.ResponseWriter, *http.Request) {}}})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return true
}

// checkGroup fails the test unless members of testGroup, and no other users, can use the socket.
func (p peer) checkGroup(path string) {
	p.t.Helper()
	if got := p.ask(testUser, testGroup, "GET", path, "/v1/status"); got != "" {
		p.t.Errorf("a member: %s", got)
	}
	if got := p.ask(testUser, testUser, "GET", path, "/v1/status"); !strings.Contains(got, "permission denied: run this as root") {
		p.t.Errorf("another user: %q", got)
	}
}

// TestControlGroup: members of the group, and no other users, can use the socket: also one that a
// process without capabilities has created, and one of a unit with RestrictSUIDSGID=. All users can
// traverse a new directory and not list it.
func TestControlGroup(t *testing.T) {
	for name, limit := range map[string]func(*testing.T, func()){
		"root":                 func(_ *testing.T, f func()) { f() },
		"without capabilities": func(t *testing.T, f func()) { withCapabilities(t, 0, f) },
		"in the unit": func(t *testing.T, f func()) {
			withCapabilities(t, 1<<unix.CAP_CHOWN, func() { withoutSetID(t); f() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t)
			dir := filepath.Join(p.dir, "new")
			path := filepath.Join(dir, "control.sock")
			limit(t, func() {
				if !serveFor(t, path) {
					return
				}
				for path, want := range map[string]fs.FileMode{path: fs.ModeSocket | 0o660, dir: fs.ModeDir | 0o711} {
					if info, err := os.Lstat(path); err != nil || info.Mode() != want {
						t.Errorf("%s: %v, %v: want mode %v", path, info, err, want)
					}
				}
			})
			p.checkGroup(path)
		})
	}
}

// TestDirectoryOfOthers: a directory that the group cannot enter is an error, and stays as it is.
func TestDirectoryOfOthers(t *testing.T) {
	p := newPeer(t)
	private := filepath.Join(p.dir, "private")
	path := filepath.Join(private, "control.sock")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), path, testGroup); err == nil || !strings.Contains(err.Error(), "chmod g+x "+private) {
		t.Errorf("in a private directory: %v", err)
	}
	if info, err := os.Stat(private); err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("the private directory was changed: %v, %v", info, err)
	}
	// As the message says.
	if err := errors.Join(os.Chown(private, -1, testGroup), os.Chmod(private, 0o710)); err != nil {
		t.Fatal(err)
	}
	if serveFor(t, path) {
		p.checkGroup(path)
	}
}

// withoutSetID makes calls of this thread fail that set the bit set-user-ID or set-group-ID, as
// systemd does with RestrictSUIDSGID=.
func withoutSetID(t *testing.T) {
	t.Helper()
	const mode = unix.S_ISUID | unix.S_ISGID
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: 0, Size: 4}}
	for call, arg := range map[uint32]uint32{unix.SYS_FCHMOD: 1, unix.SYS_FCHMODAT: 2, unix.SYS_FCHMODAT2: 2, unix.SYS_MKDIRAT: 2, unix.SYS_MKNODAT: 2} {
		program = append(program,
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: call, SkipTrue: 4},
			bpf.LoadAbsolute{Off: 16 + 8*arg, Size: 4}, // the lower half on little-endian machines
			bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: mode, SkipTrue: 1},
			bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
			bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW})
	}
	code, err := bpf.Assemble(append(program, bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}))
	if err != nil {
		t.Error(err)
		return
	}
	filter := make([]unix.SockFilter, 0, len(code))
	for _, i := range code {
		filter = append(filter, unix.SockFilter{Code: i.Op, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Error(err)
		return
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		t.Errorf("seccomp: %v", errno)
	}
	runtime.KeepAlive(filter)
	if err := os.Chmod(t.TempDir(), fs.ModeSetgid|0o700); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("the filter does not work: %v", err)
	}
}

// withCapabilities calls f in a thread of root that has only the capabilities in the mask.
func withCapabilities(t *testing.T, mask uint32, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		data := [2]unix.CapUserData{{Effective: mask, Permitted: mask}}
		if err := unix.Capset(&header, &data[0]); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}
