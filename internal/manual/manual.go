// SPDX-License-Identifier: Apache-2.0

package manual

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// section is that of commands for administrators.
const section = 8

// Pages returns the pages of a program and of all its commands except hidden ones, by the names of
// their files.
func Pages(root *cobra.Command, version string) map[string]string {
	pages := map[string]string{}
	var add func(*cobra.Command)
	add = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" {
			return
		}
		pages[fmt.Sprintf("%s.%d", pageName(c), section)] = page(c, version)
		for _, sub := range c.Commands() {
			add(sub)
		}
	}
	add(root)
	return pages
}

// pageName returns the name of a command's page, such as sotto-cache-flush.
func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// page returns the page of one command.
func page(c *cobra.Command, version string) string {
	var out strings.Builder
	examples, description, status := split(c.Long)
	fmt.Fprintf(&out, ".TH %s %d \"\" %s %s\n", quote(strings.ToUpper(pageName(c))), section, quote(c.Root().Name()+" "+version), quote("System Administration"))
	out.WriteString(".nh\n.ad l\n") // names of options are not hyphenated
	fmt.Fprintf(&out, ".SH NAME\n%s \\- %s\n", escape(pageName(c)), escape(c.Short))
	fmt.Fprintf(&out, ".SH SYNOPSIS\n.B %s\n%s", escape(c.CommandPath()), synopsis(c))
	out.WriteString(".SH DESCRIPTION\n")
	if description == "" {
		description = c.Short + "."
	}
	paragraphs(&out, description)
	commands(&out, c)
	options(&out, c)
	if examples != "" {
		out.WriteString(".SH EXAMPLES\n")
		paragraphs(&out, examples)
	}
	out.WriteString(".SH EXIT STATUS\n")
	if status == "" {
		status = "0 on success, 1 on failure, 2 for a wrong command line."
	}
	paragraphs(&out, status)
	seeAlso(&out, c)
	return out.String()
}

// split separates the examples at the start of a help text, and the exit status at its end, from
// the description.
func split(long string) (examples, description, status string) {
	description, status, _ = strings.Cut(long, "\n\nExit status:\n")
	if strings.HasPrefix(description, "  ") {
		examples, description, _ = strings.Cut(description, "\n\n")
	}
	return examples, description, status
}

// synopsis returns the line after the command's name.
func synopsis(c *cobra.Command) string {
	_, arguments, _ := strings.Cut(c.Use, " ")
	if arguments == "" && c.HasAvailableSubCommands() {
		arguments = "COMMAND"
	}
	if arguments == "" {
		return ""
	}
	return escape(arguments) + "\n"
}

// paragraphs writes a help text. Indented lines stay lines.
func paragraphs(out *strings.Builder, text string) {
	for block := range strings.SplitSeq(strings.Trim(text, "\n"), "\n\n") {
		preformatted := strings.HasPrefix(block, "  ") || strings.Contains(block, "\n  ")
		out.WriteString(".PP\n")
		if preformatted {
			out.WriteString(".nf\n")
		}
		for line := range strings.SplitSeq(block, "\n") {
			out.WriteString(escape(line) + "\n")
		}
		if preformatted {
			out.WriteString(".fi\n")
		}
	}
}

func commands(out *strings.Builder, c *cobra.Command) {
	if !c.HasAvailableSubCommands() {
		return
	}
	out.WriteString(".SH COMMANDS\n")
	for _, sub := range c.Commands() {
		if !sub.Hidden && sub.Name() != "help" {
			fmt.Fprintf(out, ".TP\n.BR %s (%d)\n%s\n", escape(pageName(sub)), section, escape(sub.Short))
		}
	}
}

func options(out *strings.Builder, c *cobra.Command) {
	out.WriteString(".SH OPTIONS\n")
	c.InitDefaultHelpFlag()
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		fmt.Fprintf(out, ".TP\n.B %s\n", escape(strings.TrimSpace(name+" "+value)))
		fmt.Fprintf(out, "%s\n", escape(usage))
	})
}

// seeAlso names the page of the program, or the pages of its commands.
func seeAlso(out *strings.Builder, c *cobra.Command) {
	if !c.HasParent() {
		out.WriteString(".SH FILES\n.TP\n.I /etc/sotto/sotto.toml\nconfiguration\n" +
			".TP\n.I /usr/share/doc/sotto/sotto.toml\ndescription of each setting, if a package was installed; else docs/sotto.toml of the sources\n" +
			".TP\n.I /run/sotto/control.sock\ncontrol socket\n")
		return
	}
	fmt.Fprintf(out, ".SH SEE ALSO\n.BR %s (%d)\n", escape(pageName(c.Parent())), section)
}

var special = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`)

// escape returns text as roff prints it unchanged. A dot at the start of a line would be a
// request. Other characters than ASCII have the form that needs no encoding (groff_char(7)).
func escape(text string) string {
	var out strings.Builder
	if strings.HasPrefix(text, ".") {
		out.WriteString(`\&`)
	}
	for _, r := range special.Replace(text) {
		if r < utf8.RuneSelf {
			out.WriteRune(r)
		} else {
			fmt.Fprintf(&out, `\[u%04X]`, r)
		}
	}
	return out.String()
}

// quote returns text as one argument of a request.
func quote(text string) string { return `"` + strings.ReplaceAll(escape(text), `"`, `\(dq`) + `"` }
