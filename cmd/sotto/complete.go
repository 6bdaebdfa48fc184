// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sotto/forwarder/upstream/address"
	"sotto/intercept/cgroup"
	"sotto/internal/manual"
	"sotto/internal/observe"
	"sotto/internal/status"
)

// completeTimeout limits the wait for the running Sotto while a user waits for a completion.
const completeTimeout = time.Second

// completionCommand replaces that of the library.
func (e *env) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a script that completes commands and flags in a shell",
		Long: `  sotto completion bash | sudo tee /etc/bash_completion.d/sotto
  sotto completion zsh | sudo tee /usr/local/share/zsh/site-functions/_sotto
  sotto completion fish > ~/.config/fish/completions/sotto.fish
  source <(sotto completion bash)    for this shell only

The script asks sotto itself for completions. Workloads are those of the running Sotto; they
are completed only for users who may read its status. The script for bash needs the package
bash-completion.`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(c *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return c.Root().GenBashCompletionV2(e.stdout, true)
			case "zsh":
				return c.Root().GenZshCompletion(e.stdout)
			}
			return c.Root().GenFishCompletion(e.stdout, true)
		},
	}
}

// manCommand is for packages: `make man` calls it.
func (e *env) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the manual pages of all commands to a directory",
		Long:   "  sotto man /usr/local/share/man/man8\n\nWrites one page per command, as it is in this version.",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			for name, text := range manual.Pages(c.Root(), versionText()) {
				if err := os.WriteFile(filepath.Join(args[0], name), []byte(text), 0o644); err != nil {
					return fmt.Errorf("write manual pages: %w", err)
				}
			}
			return nil
		},
	}
}

// fileFlags are the flags that the shell completes, because their values are files.
var fileFlags = []string{"config", "control", "ca-file", "client-cert", "client-key", "trust-anchor-file", "ca-out"}

// values returns the values of a flag. A tab separates a value from its description.
func values(flag string) []string {
	switch flag {
	case "upstream", "bootstrap":
		return address.Presets()
	case "policy":
		return []string{"failover\tthe first server that works", "fastest\tthe server that responds soonest", "random\tany server that works", "hedged\tlike fastest, and a second server if the first is slow"}
	case "profile":
		return []string{"strict\tonly authenticated servers", "opportunistic\tany server"}
	case "dnssec":
		return []string{"off\tpass on what the upstream says", "validate\tcheck signatures"}
	case "guard":
		return []string{"drop\tdrop plain queries", "count\tonly count them", "off\tdo not check packets"}
	case "local-resolvers":
		return []string{"auto\tkeep only if the whole host is sealed", "keep\tleave queries to them alone", "redirect\tseal queries to them"}
	case "log-level":
		return []string{"debug", "info", "warn", "error"}
	case "on-exit":
		return []string{"strict\ta clean stop opens the seal, a crash does not", "open\tboth open it", "closed\tneither opens it"}
	case "when-replaced":
		return []string{"exit", "wait"}
	case "replace":
		return []string{"true", "back"}
	case "type":
		return observe.TypeNames()
	case "rcode":
		return observe.RcodeNames()
	case "source":
		return observe.SourceNames()
	}
	return nil
}

// addCompletions adds completions to a command and all below it, by the names of their flags.
func addCompletions(c *cobra.Command) {
	for _, sub := range c.Commands() {
		addCompletions(sub)
	}
	switch {
	case c.Name() == "exec", c.Name() == "man": // files
	case c.Name() == "log-level":
		c.ValidArgsFunction = cobra.FixedCompletions(values("log-level"), cobra.ShellCompDirectiveNoFileComp)
	case len(c.ValidArgs) == 0:
		c.ValidArgsFunction = cobra.NoFileCompletions
	}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		complete := cobra.FixedCompletions(values(f.Name), cobra.ShellCompDirectiveNoFileComp)
		switch {
		case slices.Contains(fileFlags, f.Name):
			return
		case f.Name == "workload":
			complete = completeWorkload
		case f.Name == "cgroup" || f.Name == "exclude":
			complete = completeCgroup
		}
		_ = c.RegisterFlagCompletionFunc(f.Name, complete) // the flag exists, and has no other one
	})
}

// completeWorkload returns the names and paths of the workloads of the running Sotto, those with
// the most queries first.
func completeWorkload(c *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	ctx, cancel := context.WithTimeout(c.Context(), completeTimeout)
	defer cancel()
	c.SetContext(ctx)
	var o options
	o.config, _ = c.Flags().GetString("config")
	o.flags.Control, _ = c.Flags().GetString("control")
	var s status.Status
	if o.get(c, "/v1/status", nil, &s) != nil {
		return nil, directive
	}
	return workloadCompletions(s.Workloads, prefix), directive
}

// workloadCompletions returns the names, and then the paths, that start with prefix. Those that a
// line of the shell's protocol cannot have are left out.
func workloadCompletions(workloads []observe.WorkloadCounts, prefix string) []string {
	var named, paths []string
	add := func(list *[]string, text, about string) {
		if strings.HasPrefix(text, prefix) && status.Printable(text) == text &&
			!slices.ContainsFunc(*list, func(c string) bool { return strings.HasPrefix(c, text+"\t") }) {
			*list = append(*list, text+"\t"+about)
		}
	}
	for _, w := range workloads {
		if !strings.HasPrefix(w.Name, "/") {
			continue
		}
		count := fmt.Sprintf("%d queries", w.Queries)
		if w.WorkloadName != "" {
			add(&named, w.WorkloadName, count)
			count += ", " + w.WorkloadName
		}
		add(&paths, w.Name, count)
	}
	return append(named, paths...)
}

// completeCgroup returns the cgroups directly below the one that prefix names, which is absolute
// or relative to the root of the cgroup2 hierarchy.
func completeCgroup(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
	at := dir
	if !filepath.IsAbs(prefix) {
		root, err := cgroup.Root()
		if err != nil {
			return nil, directive
		}
		at = filepath.Join(root, dir)
	}
	entries, _ := os.ReadDir(at)
	var paths []string
	for _, e := range entries {
		if path := dir + e.Name(); e.IsDir() && strings.HasPrefix(path, prefix) {
			paths = append(paths, path)
		}
	}
	return paths, directive
}
