// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"sotto/internal/config"
	"sotto/internal/daemon"
	"sotto/internal/kubernetes/kubelet"
)

const runHelp = `  sudo sotto run                                       seal the whole host
  sudo sotto run --cgroup system.slice/nginx.service   seal one service
  sudo sotto run --exclude machine.slice               seal all but the virtual machines
  sudo sotto run --replace                             take over from the running process
  sotto run --check                                    check the configuration

Seal all processes of this host, or of the cgroups given with --cgroup, until
SIGINT or SIGTERM. A clean stop removes the seal. If Sotto is killed, the eBPF hooks stay
in place, so that queries fail instead of leaving in plain text; the next 'sotto run'
takes over from there, and 'sotto down' removes everything. With --on-exit=open a crash
also opens the seal, after a few seconds; with --on-exit=closed a clean stop leaves it
closed as well.

With --replace it takes over from a running 'sotto run', which may be another version or
have another configuration: that process exits, and no query is lost. The virtual
prefixes must stay the same, and cgroups that are sealed must stay sealed. If the running
process is stopping, the new one waits for it.

Some supervisors restart every process that exits, even with status 0 (kubelet, Docker
with restart: always). Use --when-replaced=wait there: a replaced process then releases the
seal and waits until it is stopped. If a replaced process is restarted anyway, the process
that replaced it refuses to hand over to it; --replace=back overrides that.

A stop during a takeover waits for the outcome: the process that then has the seal stops
as --on-exit says, and the other one leaves the seal alone.

The guard drops plain queries that bypass the hooks: from raw and packet sockets, from
sockets that were connected before the seal and, if the whole host is sealed, from virtual
machines. --guard=count counts them but lets them pass.

On a node of a Kubernetes cluster, names of the cluster that are asked of its resolver are
sent there in plain DNS, because only that resolver knows them; all other names go over TLS.
The cluster is the one of the node's kubelet, unless the flags or [kubernetes] in the
configuration say otherwise.

PATH is a directory in the cgroup2 hierarchy, absolute (/sys/fs/cgroup/app.slice) or
relative to its root (app.slice). A cgroup includes all cgroups below it.`

func (e *env) runCommand() *cobra.Command {
	var o options
	var replace daemon.ReplaceMode
	c := &cobra.Command{
		Use:   "run [flags]",
		Short: "Seal this host, or some of its cgroups, until stopped",
		Long:  runHelp,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := e.seeCgroups(); err != nil {
				return err
			}
			load := e.runLoader(c, &o)
			if o.check {
				return e.check(load, func(s config.Settings, p config.Plan) error {
					cfg, err := daemon.InstanceConfig(s, p)
					if err == nil {
						daemon.WarnUncovered(cfg, e.logger(p.Level))
					}
					return err
				})
			}
			asRoot := func() (config.Settings, config.Plan, error) {
				s, p, err := load()
				if err == nil {
					err = needRoot("run")
				}
				return s, p, err
			}
			outlivePipe()
			return daemon.Run(c.Context(), e.daemonOptions(asRoot), replace)
		},
	}
	o.cgroupFlags(c.Flags())
	o.guardFlag(c.Flags())
	o.localFlag(c.Flags())
	c.Flags().Var(&replace, "replace", "take over from a running 'sotto run' of any version without losing a query; --replace=back: even if it has replaced this one")
	c.Flags().Lookup("replace").NoOptDefVal = daemon.ReplaceRunning.String()
	c.Flags().StringVar(&o.flags.WhenReplaced, "when-replaced", "", "what to do after another process has taken over: exit, or wait until stopped (default exit)")
	c.Flags().StringVar(&o.flags.OnExit, "on-exit", "", "strict: a clean stop opens the seal, a crash does not; open: both do; closed: neither does (default strict)")
	o.kubernetesFlags(c.Flags())
	o.upstreamFlags(c.Flags())
	o.fileFlags(c.Flags())
	return c
}

// kubernetes returns what finds the cluster that this machine is a node of.
func (e *env) kubernetes() config.Kubernetes {
	service := e.getenv("KUBERNETES_SERVICE_HOST")
	f := kubelet.Finder{Options: kubelet.Options{InPod: service != ""}}
	return config.Kubernetes{Kubelet: f.Find, Service: service}
}
