// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"sotto/internal/config"
)

// userPath is the PATH of a command that runs as another user, the same as sudo and systemd
// set.
const userPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// keptVariables are the environment variables that such a command keeps, and LC_*: the
// terminal, language and time zone, which are neither secrets nor paths of root.
var keptVariables = []string{"TERM", "COLORTERM", "NO_COLOR", "LANG", "LANGUAGE", "TZ"}

// passwd is the user database. Package os/user reads it too, but without the shell.
const passwd = "/etc/passwd"

// commandAs prepares args to run as the named user: with all groups of that user, a minimal
// environment, only the standard files open, and in the current working directory if that
// user may enter it. If name is empty the user does not change.
func commandAs(name string, args []string) (*exec.Cmd, error) {
	if name == "" {
		return exec.Command(args[0], args[1:]...), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return nil, config.Usagef("user %q does not exist on this machine: name another one", name)
		}
	}
	cred, err := credential(u)
	if err != nil {
		return nil, err
	}
	shell, err := shellOf(u.Username)
	if err != nil {
		return nil, err
	}
	if err := closeOnExec(); err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Args: args, Env: userEnviron(os.Environ(), u, shell), SysProcAttr: &syscall.SysProcAttr{Credential: cred}}
	cmd.Path, cmd.Err = lookPath(args[0], userPath)
	if cmd.Dir, err = os.Getwd(); err != nil {
		cmd.Dir = "/" // it was removed, or Sotto cannot access it either
	}
	return cmd, nil
}

// credential returns the IDs of a user.
func credential(u *user.User) (*syscall.Credential, error) {
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("find the groups of user %s: %w", u.Username, err)
	}
	cred := &syscall.Credential{}
	if cred.Uid, err = parseID(u.Uid); err != nil {
		return nil, err
	}
	if cred.Gid, err = parseID(u.Gid); err != nil {
		return nil, err
	}
	for _, text := range ids {
		id, err := parseID(text)
		if err != nil {
			return nil, err
		}
		cred.Groups = append(cred.Groups, id)
	}
	return cred, nil
}

// userEnviron returns the environment of a command that runs as u.
func userEnviron(environ []string, u *user.User, shell string) []string {
	env := []string{"HOME=" + u.HomeDir, "USER=" + u.Username, "LOGNAME=" + u.Username, "SHELL=" + shell, "PATH=" + userPath}
	for _, v := range environ {
		name, _, _ := strings.Cut(v, "=")
		if slices.Contains(keptVariables, name) || strings.HasPrefix(name, "LC_") {
			env = append(env, v)
		}
	}
	return env
}

// shellOf returns the login shell of a user. As in login(1) it is /bin/sh if the database
// names none, or does not contain the user.
func shellOf(name string) (string, error) {
	f, err := os.Open(passwd)
	if err != nil {
		return "", fmt.Errorf("find the shell of user %s: %w", name, err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if fields := strings.Split(s.Text(), ":"); len(fields) == 7 && fields[0] == name && fields[6] != "" {
			return fields[6], nil
		}
	}
	if err := s.Err(); err != nil {
		return "", fmt.Errorf("find the shell of user %s: %w", name, err)
	}
	return "/bin/sh", nil
}

// lookPath finds a program like [exec.LookPath], but in the given PATH, which consists of
// absolute directories.
func lookPath(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil // the kernel reports errors
	}
	for dir := range strings.SplitSeq(path, ":") {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return name, &exec.Error{Name: name, Err: exec.ErrNotFound}
}

// closeOnExec prevents the command from inheriting files that this process inherited. The Go
// library does the same for files that this process opens.
func closeOnExec() error {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list open files: %w", err)
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// startAs starts cmd, in the root directory if its user may not enter the working directory.
// The error does not show which step was refused, so it tries again.
func startAs(cmd *exec.Cmd) (*exec.Cmd, error) {
	err := cmd.Start()
	if err == nil || cmd.Dir == "" || !errors.Is(err, fs.ErrPermission) || !filepath.IsAbs(cmd.Path) {
		return cmd, err
	}
	retry := &exec.Cmd{Path: cmd.Path, Args: cmd.Args, Env: cmd.Env, Dir: "/", SysProcAttr: cmd.SysProcAttr,
		Stdin: cmd.Stdin, Stdout: cmd.Stdout, Stderr: cmd.Stderr}
	if retry.Start() != nil {
		return cmd, err
	}
	return retry, nil
}

func parseID(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("read the user database: id %q: %w", text, err)
	}
	return uint32(n), nil
}
