// SPDX-License-Identifier: Apache-2.0

// Command sotto-kubernetes gives the labels and annotations of a node's pods to Sotto, which runs
// next to it. See "Kubernetes policy" in docs/OPERATING.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"sotto/internal/kubernetes/agent"
)

const help = `Watch the pods of this node and all namespaces at the API server, and write their labels and
annotations to a file that 'sotto run' reads for rules with pod-label or namespace-label, and
for pods that opt out of the seal. It needs no privileges on the node, and at the API server
only to list and watch pods and namespaces. It runs until SIGINT or SIGTERM.`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "sotto-kubernetes:", err)
		os.Exit(1)
	}
}

var errNode = errors.New("the name of this node is not known: set --node or $NODE_NAME, from spec.nodeName")

func command() *cobra.Command {
	var cfg agent.Config
	var kubeconfig string
	c := &cobra.Command{
		Use:           "sotto-kubernetes [flags]",
		Short:         "Write the labels of this node's pods for Sotto",
		Long:          help,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if cfg.Node == "" {
				return errNode
			}
			cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
			klog.SetSlogLogger(cfg.Log)
			if cfg.API, err = api(kubeconfig); err != nil {
				return err
			}
			return agent.Run(c.Context(), cfg)
		},
	}
	c.Flags().StringVar(&cfg.Node, "node", os.Getenv("NODE_NAME"), "`name` of this node (default $NODE_NAME)")
	c.Flags().StringVar(&cfg.File, "file", "/run/sotto-pods/pods.json", "`file` to write, as pods-file in sotto.toml")
	c.Flags().StringVar(&kubeconfig, "kubeconfig", "", "`file` with the address and the credentials of the API server (default: those of the pod's service account)")
	return c
}

// api returns the address and the credentials of the API server.
func api(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		cfg, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("find the API server: %w; outside of a pod set --kubeconfig", err)
		}
		return cfg, nil
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read --kubeconfig: %w", err)
	}
	return cfg, nil
}
