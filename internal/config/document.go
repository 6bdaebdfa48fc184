// SPDX-License-Identifier: Apache-2.0

package config

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

// positions holds the offset of each setting in a file, by path: "upstream",
// "upstream[1]", "rule[2]", "rule[2].name[0]". Lines are counted only for an error.
type positions struct {
	text []byte
	at   map[string]int
}

// find returns the line and column, from 1, of the setting at path, or else of the nearest
// setting that contains it.
func (p positions) find(path string) (line, column int, ok bool) {
	for path != "" {
		if at, ok := p.at[path]; ok {
			line, column = position(p.text, at)
			return line, column, true
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 0, 0, false
}

// has reports whether the file has the setting at path.
func (p positions) has(path string) bool {
	_, ok := p.at[path]
	return ok
}

// remove removes the setting at path and its elements.
func (p positions) remove(path string) {
	for at := range p.at {
		if at == path || strings.HasPrefix(at, path+"[") {
			delete(p.at, at)
		}
	}
}

func position(text []byte, offset int) (line, column int) {
	before := text[:offset]
	return bytes.Count(before, []byte("\n")) + 1, len(before) - bytes.LastIndexByte(before, '\n')
}

// positionError is an error in a document, with its position.
type positionError struct {
	line, column int
	err          error
}

func (e *positionError) Error() string { return fmt.Sprintf("%d:%d: %v", e.line, e.column, e.err) }
func (e *positionError) Unwrap() error { return e.err }

// decode reads a TOML document into the struct that to points to, and returns the
// positions of its settings. The `toml` tags of the struct are the valid keys; any other
// key is an error. Every error is a [positionError].
//
// The library decodes. Unknown keys and values of a wrong type are found before that,
// because the library's errors name Go types, and some have no position.
func decode(text []byte, to any) (positions, error) {
	var tree map[string]any
	if err := toml.Unmarshal(text, &tree); err != nil {
		return positions{}, syntaxError(err)
	}
	d := document{positions: positions{text, map[string]int{}}, counts: map[string]int{}}
	d.parser.Reset(text)
	if err := d.check(reflect.TypeOf(to).Elem()); err != nil {
		return positions{}, err
	}
	if err := toml.Unmarshal(text, to); err != nil {
		return positions{}, syntaxError(err)
	}
	return d.positions, nil
}

// syntaxError converts an error of the TOML library.
func syntaxError(err error) error {
	e := &positionError{1, 1, fmt.Errorf("%w: see https://toml.io for the syntax", err)}
	var decoding *toml.DecodeError
	if errors.As(err, &decoding) {
		e.line, e.column = decoding.Position()
	}
	return e
}

// document checks one TOML document against the struct that it is decoded into.
type document struct {
	parser    unstable.Parser
	positions positions
	counts    map[string]int // number of tables in each array of tables
}

// check checks the expressions of the document, whose syntax is valid.
func (d *document) check(root reflect.Type) error {
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

// header checks [table] and [[table]].
func (d *document) header(root reflect.Type, e *unstable.Node) (reflect.Type, string, error) {
	keys := keysOf(e)
	name := string(keys[0].Data)
	typ, err := d.setting(root, keys[0])
	if err != nil {
		return nil, "", err
	}
	single := typ.Kind() == reflect.Struct
	switch {
	case !isTables(typ) && !single:
		return nil, "", d.errorf(keys[0], "%s is not a table: write it as %s", name, example(name, typ))
	case len(keys) > 1:
		return nil, "", d.errorf(keys[1], "%s has no tables of its own", name)
	case single && e.Kind == unstable.ArrayTable:
		return nil, "", d.errorf(keys[0], "%s is a single table: write [%s]", name, name)
	case single:
		d.put(name, keys[0])
		return typ, name, nil
	case e.Kind == unstable.Table:
		return nil, "", d.errorf(keys[0], "%s is an array of tables: write [[%s]]", name, name)
	}
	path := fmt.Sprintf("%s[%d]", name, d.counts[name])
	d.counts[name]++
	d.put(path, keys[0])
	return typ.Elem(), path, nil
}

// keyValue checks one key of a table and its value.
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
		return d.errorf(keys[0], "%s has no keys of its own: write it as %s", name, example(name, typ))
	}
	d.put(path, keys[0])
	return d.value(typ, path, keys[0], e.Value(), "write it as "+example(name, typ))
}

// value checks the type of a value; hint ends the error. Arrays and inline tables have no
// position, so their errors are at their key.
func (d *document) value(typ reflect.Type, path string, key, v *unstable.Node, hint string) error {
	if v.Raw.Length > 0 {
		d.put(path, v)
		key = v
	}
	elem, isList := elemOf(typ)
	switch {
	case isList && typ.Kind() == reflect.Interface && v.Kind != unstable.Array:
		return d.value(elem, path, key, v, hint) // one value
	case isList:
		if v.Kind != unstable.Array {
			break
		}
		n := 0
		for it := v.Children(); it.Next(); n++ {
			if err := d.value(elem, fmt.Sprintf("%s[%d]", path, n), key, it.Node(), hint); err != nil {
				return err
			}
		}
		return nil
	case typ == typeCode && (v.Kind == unstable.String || v.Kind == unstable.Integer):
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
	return d.errorf(key, "wrong type of value: %s", hint)
}

// kinds are the TOML types that are valid for each Go type.
var kinds = map[reflect.Kind][]unstable.Kind{
	reflect.String:  {unstable.String},
	reflect.Bool:    {unstable.Bool},
	reflect.Int:     {unstable.Integer},
	reflect.Float64: {unstable.Float, unstable.Integer},
}

// OneOrMore is a setting whose value is a string or an array of strings.
type OneOrMore any

// Codes is a setting whose value is a name or a number, or an array of them.
type Codes any

// code is an element of [Codes].
type code any

var (
	typeOneOrMore = reflect.TypeFor[OneOrMore]()
	typeCodes     = reflect.TypeFor[Codes]()
	typeCode      = reflect.TypeFor[code]()
)

// elemOf returns the type of the elements of a list. It reports false for other types.
func elemOf(typ reflect.Type) (reflect.Type, bool) {
	switch {
	case typ == typeOneOrMore:
		return reflect.TypeFor[string](), true
	case typ == typeCodes:
		return typeCode, true
	case typ.Kind() == reflect.Slice:
		return typ.Elem(), true
	}
	return nil, false
}

// texts returns the strings of a value that [decode] has read. Numbers are decimal.
func texts(v OneOrMore) []string {
	switch v := v.(type) {
	case string, int64:
		return []string{fmt.Sprint(v)}
	case []any:
		var list []string
		for _, elem := range v {
			list = append(list, fmt.Sprint(elem)) // a string or a number: decode has checked
		}
		return list
	}
	return nil
}

// example shows how to write a setting.
func example(name string, typ reflect.Type) string {
	switch {
	case typ == typeOneOrMore:
		return fmt.Sprintf(`%s = "text" or %s = ["text", "more"]`, name, name)
	case typ == typeCodes:
		return fmt.Sprintf(`%s = "text" or %s = ["text", 1]`, name, name)
	case isTables(typ):
		return fmt.Sprintf("[[%s]] and its keys below it", name)
	case typ.Kind() == reflect.Struct:
		return fmt.Sprintf("[%s] and its keys below it", name)
	case typ.Kind() == reflect.Slice && typ.Elem().Kind() == reflect.Int:
		return name + " = [1, 2]"
	case typ.Kind() == reflect.Slice:
		return name + ` = ["text", "more"]`
	}
	return name + " = " + map[reflect.Kind]string{
		reflect.String: `"text"`, reflect.Bool: "true or false", reflect.Int: "1", reflect.Float64: "0.5",
	}[typ.Kind()]
}

// isTables reports whether a setting is an array of tables.
func isTables(typ reflect.Type) bool {
	return typ.Kind() == reflect.Slice && typ.Elem().Kind() == reflect.Struct
}

// setting returns the type of the setting that a key of a table names.
func (d *document) setting(table reflect.Type, key *unstable.Node) (reflect.Type, error) {
	for _, f := range reflect.VisibleFields(table) {
		if name := f.Tag.Get("toml"); name != "" && name == string(key.Data) {
			if f.Type.Kind() == reflect.Pointer { // optional
				return f.Type.Elem(), nil
			}
			return f.Type, nil
		}
	}
	return nil, d.errorf(key, "unknown setting %q: see docs/sotto.toml (packages: /usr/share/doc/sotto/sotto.toml) for all settings", key.Data)
}

// put records the position of a path.
func (d *document) put(path string, n *unstable.Node) { d.positions.at[path] = int(n.Raw.Offset) }

func (d *document) errorf(n *unstable.Node, format string, args ...any) error {
	line, column := position(d.positions.text, int(n.Raw.Offset))
	return &positionError{line, column, fmt.Errorf(format, args...)}
}

// keysOf returns the parts of an expression's key. There is at least one.
func keysOf(e *unstable.Node) []*unstable.Node {
	var keys []*unstable.Node
	for it := e.Key(); it.Next(); {
		keys = append(keys, it.Node())
	}
	return keys
}
