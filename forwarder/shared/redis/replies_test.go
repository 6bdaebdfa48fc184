// SPDX-License-Identifier: Apache-2.0

package redis

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/gomodule/redigo/redis"
)

// fakeServer serves a store: reply is called for every command, with the name of that, and returns
// the reply. It may be called concurrently.
func fakeServer(t *testing.T, reply func(command string) string) *Store {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveFake(c, reply)
		}
	}()
	s := New(Config{Address: l.Addr().String()})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func serveFake(c net.Conn, reply func(string) string) {
	defer c.Close()
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadString('\n') // "*N" or "$N" or an argument
		if err != nil {
			return
		}
		if line = strings.TrimSpace(line); slices.Contains([]string{"PING", "GETRANGE"}, line) {
			if _, err := io.WriteString(c, reply(line)); err != nil {
				return
			}
		}
	}
}

// TestHostileReplies: no reply of the server makes the process panic or allocate what the server
// announces.
func TestHostileReplies(t *testing.T) {
	for reply, want := range map[string]error{
		"$5\r\nvalue\r\n":                           nil,
		"$0\r\n\r\n":                                nil,
		"$-1\r\n":                                   redis.ErrNil,
		"-WRONGTYPE a list\r\n":                     nil,
		"$6\r\nvalues\r\n":                          errValue,
		"$9223372036854775807\r\n":                  errValue,
		"$92233720368547758080000\r\n":              errValue,
		"$-2\r\n":                                   errValue,
		"*9223372036854775807\r\n":                  errArray,
		"*1\r\n*1\r\n*1\r\n":                        errArray,
		"-" + strings.Repeat("x", maxLine) + "\r\n": errLine,
		"+" + strings.Repeat("x", 2*maxLine):        errLine,
	} {
		s := fakeServer(t, func(command string) string {
			if command == "PING" {
				return "+PONG\r\n"
			}
			return reply
		})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := s.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		_, err := s.Get(ctx, []string{"name"}, 5)
		if !errors.Is(err, want) {
			t.Errorf("%.40q: %v, want %v", reply, err, want)
		}
	}
}

// TestSplitReplies: replies are checked wherever the network splits them.
func TestSplitReplies(t *testing.T) {
	const good = "+PONG\r\n$-1\r\n$5\r\n*9\r\n$\r\n$0\r\n\r\n:12\r\n-ERR x\r\n"
	for size := 1; size <= len(good); size++ {
		r := replies{limit: 5}
		for part := range slices.Chunk([]byte(good+"*1"), size) {
			if err := r.check(part); err != nil {
				if rest := string(r.line); rest != "*" && rest != "*1" {
					t.Errorf("parts of %d bytes: %v at %q", size, err, rest)
				}
			}
		}
		if len(r.line) == 0 || r.line[0] != '*' {
			t.Errorf("parts of %d bytes: the array is not refused", size)
		}
	}
}
