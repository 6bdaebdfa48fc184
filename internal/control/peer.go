// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxReaders limits the connections of users who may only read, so that they cannot use up the
// memory and the files of the process. As many again are answered with 503.
const maxReaders = 64

// peerKey is the key of a connection's access in the context of its requests.
type peerKey struct{}

// access is what the requests of a connection may do.
type access uint8

const (
	accessNone access = iota // over the limit
	accessRead
	accessFull
)

// peers decides what the processes at the other ends of connections may do.
type peers struct {
	mu      sync.Mutex
	readers map[net.Conn]struct{} // open connections of users who may only read
}

// accept is [http.Server] ConnContext: it records what the process that has opened c may do.
func (p *peers) accept(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, p.access(c))
}

func (p *peers) access(c net.Conn) access {
	uid, err := peerOf(c)
	if err == nil && (uid == 0 || uid == uint32(os.Geteuid())) {
		return accessFull
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.readers)
	if n == 2*maxReaders {
		_ = c.Close()
		return accessNone
	}
	p.readers[c] = struct{}{}
	if n >= maxReaders {
		return accessNone
	}
	return accessRead
}

// changed is [http.Server] ConnState.
func (p *peers) changed(c net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.readers, c)
	}
}

// peerOf returns the effective user ID that the process at the other end of c had when it
// connected (SO_PEERCRED, unix(7)).
func peerOf(c net.Conn) (uint32, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, errors.New("not a Unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, failed); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// restrict lets only root and the user of this process change something. Other users, which can
// connect if the socket has a group, may read.
func restrict(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch a, _ := r.Context().Value(peerKey{}).(access); {
		case a == accessNone:
			w.Header().Set("Connection", "close")
			http.Error(w, "too many connections of members of control-group: end some traces, or use sudo", http.StatusServiceUnavailable)
		case a == accessRead && r.Method != http.MethodGet:
			http.Error(w, "only root and the user that Sotto runs as may do this; members of control-group may only read: use sudo", http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}
