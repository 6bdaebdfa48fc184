// SPDX-License-Identifier: Apache-2.0

// Command registry is a container registry over HTTP with images in memory.
//
//	registry LISTEN NAME:TAG=FILE…
//
// Each FILE is an image in the format of docker save. A line of the log on the standard error stream is a request.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: registry LISTEN NAME:TAG=FILE…")
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		log.Fatal(err)
	}
}

func run(address string, images []string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	done := make(chan error)
	go func() { done <- http.Serve(l, registry.New()) }()
	for _, image := range images {
		if err := push(l.Addr().String(), image); err != nil {
			return fmt.Errorf("push %s: %w", image, err)
		}
	}
	log.Print("serving")
	return <-done
}

func push(address, image string) error {
	tag, file, _ := strings.Cut(image, "=")
	ref, err := name.NewTag(address+"/"+tag, name.Insecure)
	if err != nil {
		return err
	}
	img, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		return err
	}
	return remote.Write(ref, img)
}
