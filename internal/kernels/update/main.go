// SPDX-License-Identifier: Apache-2.0

// Command update adds the console logs of guests to a file of results, or writes the table of
// supported kernels into README.md. scripts/vm-test.sh runs it.
//
//	go run ./internal/kernels/update -into FILE -suite … -arch … [flags] PART=LOG…
//	go run ./internal/kernels/update -into FILE -table
//	go run ./internal/kernels/update -into docs/kernels.json -readme README.md
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"

	"sotto/internal/kernels"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "update: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	var k kernels.Kernel
	var p kernels.Part
	into := flag.String("into", "docs/kernels.json", "file of results")
	readme := flag.String("readme", "", "file whose table to replace")
	table := flag.Bool("table", false, "print the table")
	config := flag.String("config", "", "/boot/config of the kernel")
	order := flag.String("order", "", "names of all parts in their order")
	flag.StringVar(&k.Suite, "suite", "", "suite of Debian")
	flag.StringVar(&k.Arch, "arch", "", "architecture")
	flag.StringVar(&k.Release, "release", "", "release of the kernel")
	flag.StringVar(&p.Date, "date", "", "today")
	flag.StringVar(&p.Commit, "commit", "", "commit of Sotto")
	flag.StringVar(&p.Emulator, "emulator", "", "version and accelerator")
	flag.Func("excluded", "REASON=TESTS that the guest does not run; repeatable", func(s string) error {
		reason, tests, _ := strings.Cut(s, "=")
		k.Excluded = append(k.Excluded, kernels.Excluded{Tests: tests, Reason: reason})
		return nil
	})
	flag.Parse()
	r, err := kernels.Read(*into)
	switch {
	case err != nil:
		return err
	case *table:
		fmt.Print(r.Table())
		return nil
	case *readme != "":
		return writeREADME(r, *readme)
	}
	text, err := os.ReadFile(*config)
	if err != nil {
		return err
	}
	k.Config, k.Features = kernels.ParseConfig(string(text)), map[string]string{}
	for _, arg := range flag.Args() {
		if err := addLog(&k, p, arg); err != nil {
			return err
		}
	}
	r.Add(k, strings.Fields(*order))
	return r.Write(*into)
}

// addLog adds the log of a part, whose date and other particulars are those of p.
func addLog(k *kernels.Kernel, p kernels.Part, arg string) error {
	name, path, _ := strings.Cut(arg, "=")
	log, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	part, release, features, err := kernels.ParseLog(bytes.NewReader(log))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	part.Name, part.Date, part.Commit, part.Emulator = name, p.Date, p.Commit, p.Emulator
	if release != "" {
		k.Release = release
	}
	for feature, value := range features {
		k.Features[feature] = value
	}
	k.Parts = append(k.Parts, part)
	return nil
}

func writeREADME(r kernels.Results, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	out, err := r.InREADME(string(text))
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(out), 0o644)
}
