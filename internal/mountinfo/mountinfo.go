// SPDX-License-Identifier: Apache-2.0

// Package mountinfo reads the mounts of this process from /proc/self/mountinfo
// (proc_pid_mountinfo(5)). It imports nothing of Sotto.
package mountinfo

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Mount is one mount.
type Mount struct {
	Root  string // directory of the file system that is mounted
	Point string // mount point
	Type  string // file system type
}

// Read returns the mounts that this process sees, oldest first.
func Read() ([]Mount, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return Parse(data), nil
}

// Parse reads the format of the file. It skips lines that it cannot parse.
func Parse(data []byte) []Mount {
	var out []Mount
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		// 36 35 98:0 /root /point opts [optional fields…] - fstype source superopts
		for i := 6; i+1 < len(fields); i++ {
			if fields[i] == "-" {
				out = append(out, Mount{unescape(fields[3]), unescape(fields[4]), fields[i+1]})
				break
			}
		}
	}
	return out
}

// unescape decodes the octal escapes of blanks and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b bytes.Buffer
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
