// SPDX-License-Identifier: Apache-2.0

// Package kubelet finds what the kubelet of this node gives to pods as their nameserver and
// search domains, and where it puts their cgroups.
//
//   - [Config.Parse] and [Config.ParseFlags] are pure: they read a KubeletConfiguration
//     (kubelet.config.k8s.io/v1beta1) and a command line, of which flags win.
//   - [Find] looks for a kubelet among the processes of the system, and reads the files that its
//     command line names, or those of kubeadm.
//
// Processes are trusted only if they belong to root and are outside of containers and pods: any
// other process could call itself kubelet, and have queries sent in plain.
package kubelet
