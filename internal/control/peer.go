// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"

	"golang.org/x/sys/unix"
)

// peerKey is the key of a connection's peer in the context of its requests.
type peerKey struct{}

// withPeer adds the user ID of the process that has opened c to the context of its requests.
// Without it, as after an error, a request may only read.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	uid, err := peerOf(c)
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, uid)
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
		uid, known := r.Context().Value(peerKey{}).(uint32)
		full := known && (uid == 0 || uid == uint32(os.Geteuid()))
		if !full && r.Method != http.MethodGet {
			http.Error(w, "only root and the user that Sotto runs as may do this; members of control-group may only read: use sudo", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
