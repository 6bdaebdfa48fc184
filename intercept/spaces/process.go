// SPDX-License-Identifier: Apache-2.0

package spaces

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// namespaceID identifies a network namespace as long as it exists: it is the inode number of
// its file /proc/net/dev. Every namespace has its own directory in procfs, which can be read
// without CAP_SYS_PTRACE, unlike the link /proc/PID/ns/net.
type namespaceID uint64

// namespaceOf returns the network namespace of a process or thread with the directory dir in
// procfs. It reports false if the process has exited.
func namespaceOf(dir string) (id namespaceID, ok bool) {
	var st unix.Stat_t
	if unix.Stat(dir+"/net/dev", &st) != nil {
		return 0, false
	}
	return namespaceID(st.Ino), true
}

// currentNamespace returns the network namespace of the calling thread.
func currentNamespace() (namespaceID, error) {
	id, ok := namespaceOf("/proc/thread-self")
	if !ok {
		return 0, errors.New("identify the network namespace: no /proc/thread-self/net/dev")
	}
	return id, nil
}

func processDir(pid int) string { return "/proc/" + strconv.Itoa(pid) }

// isIn reports whether the main thread of a process is in a namespace.
func isIn(pid int, id namespaceID) bool {
	got, ok := namespaceOf(processDir(pid))
	return ok && got == id
}

// hasThreadIn reports whether a thread of a process is in a namespace. The main thread of a
// program that visits another one for a moment is not.
func hasThreadIn(pid int, id namespaceID) bool {
	if isIn(pid, id) {
		return true
	}
	threads, err := threadsOf(pid)
	return err == nil && slices.ContainsFunc(threads, func(dir string) bool {
		got, ok := namespaceOf(dir)
		return ok && got == id
	})
}

// livesIn reports whether all threads of a process are in a namespace. A thread of a program
// that only visits it, such as a container engine or Sotto, does not count.
func livesIn(pid int, id namespaceID) bool {
	if !isIn(pid, id) {
		return false
	}
	threads, err := threadsOf(pid)
	return err == nil && !slices.ContainsFunc(threads, func(dir string) bool {
		got, ok := namespaceOf(dir)
		return ok && got != id
	})
}

// threadsOf returns the directories of the threads of a process in procfs.
func threadsOf(pid int) ([]string, error) {
	entries, err := os.ReadDir(processDir(pid) + "/task")
	dirs := make([]string, len(entries))
	for i, t := range entries {
		dirs[i] = filepath.Join(processDir(pid), "task", t.Name())
	}
	return dirs, err
}

// oldestIn returns the process that has lived in a namespace for longest by its start time, and
// 0 if there is none. It is the one for which the namespace was made: others that entered it
// (docker exec, nsenter, a second container in the namespace of the first) started later.
func oldestIn(id namespaceID) int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	oldest, first := 0, uint64(0)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !livesIn(pid, id) {
			continue
		}
		start, err := startTime(pid)
		if err == nil && (oldest == 0 || start < first || start == first && pid < oldest) {
			oldest, first = pid, start
		}
	}
	return oldest
}

// startTime returns the time when a process started, in clock ticks since boot.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(processDir(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses, and may itself contain some.
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const field = 22 - 3 // proc(5) counts from 1; the third is the first after the name
	if len(fields) <= field {
		return 0, fmt.Errorf("read the start time of process %d: %q", pid, text)
	}
	return strconv.ParseUint(fields[field], 10, 64)
}
