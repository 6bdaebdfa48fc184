// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"sotto/internal/e2e"
	"sotto/internal/netlab/labtest"
	"sotto/internal/observe"
)

// visible calls f for all commands that users see.
func visible(c *cobra.Command, f func(*cobra.Command)) {
	if c.Hidden || c.Name() == "help" {
		return
	}
	f(c)
	for _, sub := range c.Commands() {
		visible(sub, f)
	}
}

// TestHelpStartsWithExample: the help text of each command starts with an example of it, and has
// lines of at most 100 columns.
func TestHelpStartsWithExample(t *testing.T) {
	n := 0
	visible((&env{}).rootCommand(), func(c *cobra.Command) {
		n++
		out, _, _ := call(t, append(strings.Fields(c.CommandPath())[1:], "--help")...)
		first, _, _ := strings.Cut(out, "\n")
		if command := strings.TrimPrefix(strings.TrimPrefix(first, "  "), "sudo "); !strings.HasPrefix(first, "  ") || !strings.HasPrefix(command, c.CommandPath()) {
			t.Errorf("%s --help starts with %q", c.CommandPath(), first)
		}
		for line := range strings.Lines(c.Long) {
			if len([]rune(line)) > 100 {
				t.Errorf("%s --help: a line is longer than 100 columns: %s", c.CommandPath(), line)
			}
		}
	})
	if n < 14 {
		t.Errorf("%d commands: want more", n)
	}
}

// TestExecExitStatus: the manual page and the help of exec describe the statuses of a command.
func TestExecExitStatus(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man8")
	if _, errs, status := call(t, "man", dir); status != 0 {
		t.Fatal(errs)
	}
	page, err := os.ReadFile(filepath.Join(dir, "sotto-exec.8"))
	if err != nil {
		t.Fatal(err)
	}
	help, _, _ := call(t, "exec", "--help")
	_, inPage, _ := strings.Cut(string(page), ".SH EXIT STATUS\n")
	_, inHelp, _ := strings.Cut(help, "\nExit status:\n")
	for _, status := range []string{"that of CMD", "128 + N", strconv.Itoa(exitNotFound), strconv.Itoa(exitCannotRun)} {
		if !strings.Contains(inPage, "  "+status+"  ") || !strings.Contains(inHelp, "  "+status+"  ") {
			t.Errorf("no exit status %s in the page:\n%s\nor in the help:\n%s", status, page, help)
		}
	}
}

// TestManualPages: there is a page for each command, and groff formats all without a warning.
func TestManualPages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man8")
	if _, errs, status := call(t, "man", dir); status != 0 {
		t.Fatal(errs)
	}
	groff := ""
	visible((&env{}).rootCommand(), func(c *cobra.Command) {
		page := filepath.Join(dir, strings.ReplaceAll(c.CommandPath(), " ", "-")+".8")
		if _, err := os.Stat(page); err != nil {
			t.Error(err)
		}
		if groff == "" {
			groff = labtest.NeedTool(t, "groff")
		}
		if out, err := exec.CommandContext(t.Context(), groff, "-man", "-Tutf8", "-ww", "-z", page).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", page, err, out)
		}
	})
}

// complete returns the completions of a command line, without their descriptions.
func complete(t *testing.T, args ...string) (found []string, directive string) {
	t.Helper()
	out, _, status := call(t, append([]string{cobra.ShellCompRequestCmd}, args...)...)
	if status != 0 {
		t.Fatalf("%v: status %d", args, status)
	}
	for line := range strings.Lines(out) {
		value, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if strings.HasPrefix(value, ":") {
			return found, value
		}
		found = append(found, value)
	}
	t.Fatalf("%v: no directive: %q", args, out)
	return nil, ""
}

const noFiles = ":4" // cobra.ShellCompDirectiveNoFileComp

// TestCompleteValues: completed values are those that the program accepts.
func TestCompleteValues(t *testing.T) {
	for _, flag := range []string{"upstream", "policy", "profile", "log-level", "guard", "local-resolvers", "on-exit", "when-replaced"} {
		list, directive := complete(t, "run", "--"+flag, "")
		if len(list) < 2 || directive != noFiles {
			t.Errorf("--%s: %v, %s", flag, list, directive)
		}
		for _, value := range list {
			if _, errs, status := call(t, "run", "--check", "--config", os.DevNull, "--cgroup", "/", "--"+flag, value); status != 0 {
				t.Errorf("--%s %s: status %d\n%s", flag, value, status, errs)
			}
		}
	}
	for _, tc := range []struct {
		want, directive string
		args            []string
	}{
		{"AAAA", noFiles, []string{"trace", "--type", ""}},
		{"SERVFAIL", noFiles, []string{"trace", "--rcode", ""}},
		{"BADCOOKIE", noFiles, []string{"trace", "--rcode", ""}},
		{"nameserver", noFiles, []string{"trace", "--source", ""}},
		{"HTTPS", noFiles, []string{"explain", "a.example", "--type", ""}},
		{"debug", noFiles, []string{"log-level", ""}},
		{"flush", noFiles, []string{"cache", ""}},
		{"fish", noFiles, []string{"completion", ""}},
		{"", noFiles, []string{"cache", "flush", ""}},
		{"", noFiles, []string{"trace", "--min", ""}},
		{"", noFiles, []string{"status", ""}},
		{"", ":0", []string{"serve", "--config", ""}},
		{"", ":0", []string{"serve", "--ca-file", ""}},
		{"", ":0", []string{"exec", "--", ""}},
	} {
		if list, directive := complete(t, tc.args...); directive != tc.directive || tc.want == "" && len(list) > 0 || tc.want != "" && !slices.Contains(list, tc.want) {
			t.Errorf("%v: %v, %s", tc.args, list, directive)
		}
	}
}

// TestCompleteCgroup completes the cgroups below a directory.
func TestCompleteCgroup(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"app.slice", "apps.slice/inner", "system.slice"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	e2e.WriteFile(t, filepath.Join(dir, "app.file"), "")
	for prefix, want := range map[string][]string{
		"/app": {"/app.slice", "/apps.slice"}, "/apps.slice/": {"/apps.slice/inner"}, "/nowhere/": nil,
	} {
		for i := range want {
			want[i] = dir + want[i]
		}
		if list, _ := complete(t, "run", "--cgroup", dir+prefix); !slices.Equal(list, want) {
			t.Errorf("%s: %v, want %v", prefix, list, want)
		}
	}
}

// TestCompleteWorkload: without a running Sotto there are no workloads and no error; with one, they
// come from its status. TestRunStatus completes those of a seal.
func TestCompleteWorkload(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.sock")
	if list, directive := complete(t, "trace", "--control", none, "--workload", ""); len(list) > 0 || directive != ":36" {
		t.Errorf("without a Sotto: %v, %s", list, directive)
	}
	s, _ := startServing(t, "")
	if list, directive := complete(t, "trace", "--control", s.control, "--workload", ""); len(list) > 0 || directive != ":36" {
		t.Errorf("of serve, which knows no workloads: %v, %s", list, directive)
	}
}

// TestWorkloadCompletions: names come before paths, each once.
func TestWorkloadCompletions(t *testing.T) {
	workloads := []observe.WorkloadCounts{
		{Name: "/docker/1", WorkloadName: "docker:web", Queries: 9}, {Name: "/docker/2", WorkloadName: "docker:web", Queries: 8},
		{Name: "/a", Queries: 7}, {Name: "/b\n", WorkloadName: "b\t", Queries: 6}, {Name: "", Queries: 5}, {Name: "other", Queries: 4},
	}
	for prefix, want := range map[string][]string{
		"":        {"docker:web\t9 queries", "/docker/1\t9 queries, docker:web", "/docker/2\t8 queries, docker:web", "/a\t7 queries"},
		"do":      {"docker:web\t9 queries"},
		"/docker": {"/docker/1\t9 queries, docker:web", "/docker/2\t8 queries, docker:web"},
	} {
		if got := workloadCompletions(workloads, prefix); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", prefix, got, want)
		}
	}
}

// TestCompletionBash completes in a real bash with the package bash-completion.
func TestCompletionBash(t *testing.T) {
	bash := labtest.NeedTool(t, "bash")
	library := "/usr/share/bash-completion/bash_completion"
	if dir := os.Getenv("SOTTO_BASH_COMPLETION"); dir != "" {
		library = dir
	}
	if _, err := os.Stat(library); err != nil {
		t.Skipf("bash-completion is not installed: %v", err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "sotto")
	e2e.WriteFile(t, program, fmt.Sprintf("#!/bin/sh\nexec env %s %s %q \"$@\"\n", self().Env[0], e2e.RaceEnv, self().Path))
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	const script = `source "$1"; source <(sotto completion bash)
COMP_LINE=$2 COMP_POINT=${#2}
read -ra COMP_WORDS <<<"$COMP_LINE"
[[ $COMP_LINE != *' ' ]] || COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_TYPE=9
__start_sotto
printf '%s\n' "${COMPREPLY[@]}"`
	for line, want := range map[string]string{
		"sotto tra":                      "trace",
		"sotto trace --sou":              "--source",
		"sotto trace --rcode SERV":       "SERVFAIL",
		"sotto serve --policy hed":       "hedged",
		"sotto run --local-resolvers re": "redirect",
		"sotto cache fl":                 "flush",
	} {
		cmd := exec.CommandContext(t.Context(), bash, "--norc", "-c", script, "bash", library, line)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		out, err := cmd.Output() // compopt, outside of a completion, prints an error
		if got := strings.TrimSpace(string(out)); err != nil || !strings.HasPrefix(got, want) || strings.Contains(got, "\n") {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	}
}

// TestCompletionSyntax: other shells accept the script.
func TestCompletionSyntax(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		t.Run(shell, func(t *testing.T) {
			out, errs, status := call(t, "completion", shell)
			if status != 0 || errs != "" {
				t.Fatalf("status %d, %s", status, errs)
			}
			path := filepath.Join(t.TempDir(), "script")
			e2e.WriteFile(t, path, out)
			program, err := exec.LookPath(shell)
			if errors.Is(err, exec.ErrNotFound) {
				t.Skipf("%s is not installed", shell)
			}
			if out, err := exec.CommandContext(t.Context(), program, "-n", path).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	if _, errs, status := call(t, "completion", "tcsh"); status != exitUsage || !strings.Contains(errs, "tcsh") {
		t.Errorf("tcsh: status %d, %s", status, errs)
	}
}
