// SPDX-License-Identifier: Apache-2.0

// Command sotto seals DNS: it redirects every query that a workload sends to port 53, and
// answers it from a cache or over TLS. README.md describes what it does, docs/ARCHITECTURE.md
// how it works.
//
// This package holds the command line, with one file per command. Package config reads
// the settings, and package daemon runs the commands that answer queries.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"sotto/intercept/cgroup"
	"sotto/internal/config"
	"sotto/internal/privdrop"
)

// Exit statuses of Sotto itself. `exec` returns the status of its command.
const (
	exitFailure = 1
	exitUsage   = 2
)

// env is the process that a command runs in.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	dropPrivileges func(privdrop.Limits) error // nil in tests
	pathTest       []string                    // see daemon.Options; nil in tests
	enterHost      func() error                // cgroup.EnterHost, which may execute this program again
}

func main() {
	e := &env{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv,
		dropPrivileges: privdrop.Apply, pathTest: []string{"/proc/self/exe", pathTestName}, enterHost: cgroup.EnterHost,
	}
	os.Exit(e.main(context.Background(), os.Args[1:]))
}

// exitError ends the process with a status and without a message.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// main runs a command line and returns the exit status.
func (e *env) main(ctx context.Context, args []string) int {
	started := false
	root := e.rootCommand()
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	var status exitError
	var usage config.UsageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &usage) || !started:
		// Before a command starts only a wrong flag, command or argument can fail.
		fmt.Fprintf(e.stderr, "sotto: %v\nSee '%s --help'.\n", err, command.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(e.stderr, "sotto: %v\n", err)
	return exitFailure
}

func (e *env) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "sotto",
		Short: "Seal DNS: send every query to port 53 over TLS, transparently for the client",
		Long: `  sudo sotto exec -- dig @8.8.8.8 example.com    seal one command
  sudo sotto run                                 seal this host until stopped
  sudo sotto check                               check this machine, and what to fix
  sotto serve --listen 127.0.0.1:5300            forward plain DNS over TLS, without root
  sudo sotto demo                                see how it works, without internet access

Sotto seals DNS on Linux. An eBPF program on a cgroup redirects every query that a
workload sends to port 53 to a listener in its own network namespace, which answers
from its cache or forwards the query over TLS. Programs, resolv.conf and container
images stay unchanged.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.AddCommand(
		e.execCommand(), e.runCommand(), e.serveCommand(),
		e.statusCommand(), e.traceCommand(), e.topCommand(), e.explainCommand(), e.checkCommand(), e.cacheCommand(), e.listsCommand(),
		e.reloadCommand(), e.logLevelCommand(),
		e.demoCommand(), e.downCommand(), e.versionCommand(),
		e.pathTestCommand(), e.checkClientCommand(), e.serviceStopCommand(),
	)
	root.AddCommand(e.completionCommand(), e.manCommand())
	addCompletions(root)
	return root
}
