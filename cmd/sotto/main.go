// SPDX-License-Identifier: Apache-2.0

// Command sotto seals DNS: it catches every query that a workload sends to port
// 53 and answers it from a cache or over TLS. See README.md for what it is, and
// the packages sotto/intercept and sotto/forwarder for how it is done; this one
// only wires them together, one file a verb.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"sotto/internal/privdrop"
)

// Exit statuses of Sotto itself. `exec` passes on those of its command.
const (
	exitFailure = 1
	exitUsage   = 2
)

// env is what a verb touches of the process it runs in.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	confinement    confinement // nil: none, for a test's own process
}

func main() {
	e := &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, confinement: privdrop.Apply}
	os.Exit(e.main(context.Background(), os.Args[1:]))
}

// usageError is a mistake in how Sotto was called.
type usageError struct{ error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// exitError ends the process with a status and no message of its own.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// main runs one call of the command and returns its exit status.
func (e *env) main(ctx context.Context, args []string) int {
	started := false
	root := e.root()
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	root.SetArgs(args)
	verb, err := root.ExecuteContextC(ctx)
	var status exitError
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &usage) || !started:
		// What fails before a verb begins is a wrong flag, verb or argument.
		fmt.Fprintf(e.stderr, "sotto: %v\nSee '%s --help'.\n", err, verb.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(e.stderr, "sotto: %v\n", err)
	return exitFailure
}

func (e *env) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "sotto",
		Short: "seal DNS: every query to port 53 goes over TLS, and the client cannot tell",
		Long: `Sotto seals DNS on Linux. An eBPF program on a cgroup catches every query that a
workload sends to port 53 and carries it to a listener in a network namespace of
its own, which answers from its cache or forwards over TLS. Programs, resolv.conf
and images stay as they are.

  sudo sotto exec -- dig @8.8.8.8 example.com    seal one command
  sudo sotto run                                 seal this host until stopped
  sotto serve --listen 127.0.0.1:5300            a plain DNS to TLS forwarder, no root
  sudo sotto demo                                see it work, with no internet`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.AddCommand(e.execVerb(), e.runVerb(), e.serveVerb(), e.reloadVerb(), e.demoVerb(), e.downVerb(), e.versionVerb())
	return root
}
