// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// places are where the settings of a file stand, by path: "upstream",
// "upstream[1]", "rule[2]", "rule[2].name[0]". They are offsets: a line is
// counted only when an error needs it.
type places struct {
	text []byte
	at   map[string]int
}

// of is the line and column, from 1, of a path or of the nearest thing around it.
func (p places) of(path string) (line, column int, ok bool) {
	for path != "" {
		if at, ok := p.at[path]; ok {
			line, column = position(p.text, at)
			return line, column, true
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 0, 0, false
}

// has reports whether the file has that very path.
func (p places) has(path string) bool {
	_, ok := p.at[path]
	return ok
}

// forget drops a setting that no longer comes from the file.
func (p places) forget(path string) {
	for have := range p.at {
		if have == path || strings.HasPrefix(have, path+"[") {
			delete(p.at, have)
		}
	}
}

func position(text []byte, offset int) (line, column int) {
	before := text[:offset]
	return bytes.Count(before, []byte("\n")) + 1, len(before) - bytes.LastIndexByte(before, '\n')
}

// wrong is a mistake in a document, and where.
type wrong struct {
	line, column int
	err          error
}

func (w *wrong) Error() string { return fmt.Sprintf("%d:%d: %v", w.line, w.column, w.err) }
func (w *wrong) Unwrap() error { return w.err }

// decode reads a TOML document over the struct that to points to, and returns
// where its settings stand. The struct's `toml` tags are the keys that there
// are; any other is an error. Every error is a [wrong].
//
// The library decodes; that each key is one of ours, and each value of its
// setting's kind, is looked at before, because the library's errors name the
// types of a program, and some have no position.
func decode(text []byte, to any) (places, error) {
	var tree map[string]any
	if err := toml.Unmarshal(text, &tree); err != nil {
		return places{}, fromLibrary(err)
	}
	d := document{places: places{text, map[string]int{}}, counts: map[string]int{}}
	d.parser.Reset(text)
	if err := d.read(reflect.TypeOf(to).Elem()); err != nil {
		return places{}, err
	}
	if err := toml.Unmarshal(text, to); err != nil {
		return places{}, fromLibrary(err)
	}
	return d.places, nil
}

// fromLibrary gives an error of the TOML library its position.
func fromLibrary(err error) error {
	w := &wrong{1, 1, fmt.Errorf("%w: https://toml.io says how it is written", err)}
	var decoding *toml.DecodeError
	if errors.As(err, &decoding) {
		w.line, w.column = decoding.Position()
	}
	return w
}

// document is the reading of one TOML document along the structs that it is for.
type document struct {
	parser unstable.Parser
	places places
	counts map[string]int // of the tables of each array of tables
}

// read goes through the expressions of the document, whose syntax is right.
func (d *document) read(root reflect.Type) error {
	table, prefix := root, ""
	for d.parser.NextExpression() {
		var err error
		switch e := d.parser.Expression(); e.Kind {
		case unstable.KeyValue:
			err = d.keyValue(table, prefix, e)
		case unstable.Table, unstable.ArrayTable:
			table, prefix, err = d.header(root, e)
		}
		if err != nil {
			return err
		}
	}
	return d.parser.Error()
}

// header reads [table] and [[table]]; of our own all are lists.
func (d *document) header(root reflect.Type, e *unstable.Node) (reflect.Type, string, error) {
	keys := keysOf(e)
	name := string(keys[0].Data)
	typ, err := d.setting(root, keys[0])
	if err != nil {
		return nil, "", err
	}
	switch {
	case !isTables(typ):
		return nil, "", d.wrong(keys[0], "%s is no table: write it as %s", name, example(name, typ))
	case len(keys) > 1:
		return nil, "", d.wrong(keys[1], "%s has no tables of its own", name)
	case e.Kind == unstable.Table:
		return nil, "", d.wrong(keys[0], "there may be several of %s: write [[%s]]", name, name)
	}
	path := fmt.Sprintf("%s[%d]", name, d.counts[name])
	d.counts[name]++
	d.put(path, keys[0])
	return typ.Elem(), path, nil
}

// keyValue reads one key of a table and its value.
func (d *document) keyValue(table reflect.Type, prefix string, e *unstable.Node) error {
	keys := keysOf(e)
	typ, err := d.setting(table, keys[0])
	if err != nil {
		return err
	}
	name := string(keys[0].Data)
	path := name
	if prefix != "" {
		path = prefix + "." + name
	}
	if len(keys) > 1 {
		return d.wrong(keys[0], "%s has no keys of its own: write it as %s", name, example(name, typ))
	}
	d.put(path, keys[0])
	return d.value(typ, path, keys[0], e.Value(), "write it as "+example(name, typ))
}

// value checks that a value is of its setting's kind, and mend is how to write that.
// Arrays and inline tables have no position: what is wrong with them is at their key.
func (d *document) value(typ reflect.Type, path string, key, v *unstable.Node, mend string) error {
	if v.Raw.Length > 0 {
		d.put(path, v)
		key = v
	}
	switch {
	case typ == typeOneOrMore && v.Kind == unstable.String:
		return nil
	case typ == typeOneOrMore || typ.Kind() == reflect.Slice:
		if v.Kind != unstable.Array {
			break
		}
		n := 0
		for it := v.Children(); it.Next(); n++ {
			elem := reflect.TypeFor[string]()
			if typ.Kind() == reflect.Slice {
				elem = typ.Elem()
			}
			if err := d.value(elem, fmt.Sprintf("%s[%d]", path, n), key, it.Node(), mend); err != nil {
				return err
			}
		}
		return nil
	case typ.Kind() == reflect.Struct:
		if v.Kind != unstable.InlineTable {
			break
		}
		d.put(path, key)
		for it := v.Children(); it.Next(); {
			if err := d.keyValue(typ, path, it.Node()); err != nil {
				return err
			}
		}
		return nil
	case slices.Contains(kinds[typ.Kind()], v.Kind):
		return nil
	}
	return d.wrong(key, "this is not what it takes: %s", mend)
}

// kinds are the TOML values that each kind of setting takes.
var kinds = map[reflect.Kind][]unstable.Kind{
	reflect.String:  {unstable.String},
	reflect.Bool:    {unstable.Bool},
	reflect.Int:     {unstable.Integer},
	reflect.Float64: {unstable.Float, unstable.Integer},
}

// oneOrMore is a setting that takes a string or an array of them; [texts] reads
// it.
type oneOrMore any

var typeOneOrMore = reflect.TypeFor[oneOrMore]()

// texts are the strings of a [oneOrMore] that [decode] has read.
func texts(v oneOrMore) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var list []string
		for _, elem := range v {
			text, _ := elem.(string) // decode has looked
			list = append(list, text)
		}
		return list
	}
	return nil
}

// example is how a setting is written.
func example(name string, typ reflect.Type) string {
	switch {
	case typ == typeOneOrMore:
		return fmt.Sprintf(`%s = "text" or %s = ["text", "more"]`, name, name)
	case isTables(typ):
		return fmt.Sprintf("[[%s]] and its keys below it", name)
	case typ.Kind() == reflect.Slice && typ.Elem().Kind() == reflect.Int:
		return name + " = [1, 2]"
	case typ.Kind() == reflect.Slice:
		return name + ` = ["text", "more"]`
	}
	return name + " = " + map[reflect.Kind]string{
		reflect.String: `"text"`, reflect.Bool: "true or false", reflect.Int: "1", reflect.Float64: "0.5",
	}[typ.Kind()]
}

// isTables reports whether a setting is a list of tables.
func isTables(typ reflect.Type) bool {
	return typ.Kind() == reflect.Slice && typ.Elem().Kind() == reflect.Struct
}

// setting is the type of what a key of a table sets.
func (d *document) setting(table reflect.Type, key *unstable.Node) (reflect.Type, error) {
	for _, f := range reflect.VisibleFields(table) {
		if name := f.Tag.Get("toml"); name != "" && name == string(key.Data) {
			return f.Type, nil
		}
	}
	return nil, d.wrong(key, "there is no setting %q here: docs/sotto.toml lists them all", key.Data)
}

// put remembers where a path stands.
func (d *document) put(path string, n *unstable.Node) { d.places.at[path] = int(n.Raw.Offset) }

func (d *document) wrong(n *unstable.Node, format string, args ...any) error {
	line, column := position(d.places.text, int(n.Raw.Offset))
	return &wrong{line, column, fmt.Errorf(format, args...)}
}

// keysOf are the parts of an expression's key, of which there is at least one.
func keysOf(e *unstable.Node) []*unstable.Node {
	var keys []*unstable.Node
	for it := e.Key(); it.Next(); {
		keys = append(keys, it.Node())
	}
	return keys
}
