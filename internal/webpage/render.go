// SPDX-License-Identifier: Apache-2.0

package webpage

import (
	"fmt"

	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"
)

// document returns the page. Text and values of attributes are escaped when it is rendered.
//
// It is built by functions, not by html/template: executing a template calls methods by name, so
// the linker would have to keep the exported methods of all types, which are 3 MB.
func document(v *view) g.Node {
	return h.Doctype(h.HTML(h.Lang("en"),
		h.Head(
			h.Meta(h.Charset("utf-8")),
			h.Meta(h.Name("viewport"), h.Content("width=device-width, initial-scale=1")),
			h.TitleEl(g.Text("Sotto")),
			h.Link(h.Rel("stylesheet"), h.Href("/style.css")),
			h.Script(h.Src("/live.js"), h.Defer()),
			h.NoScript(h.Meta(g.Attr("http-equiv", "refresh"), h.Content("10"))),
		),
		h.Body(h.Main(
			header(v),
			h.Section(h.Class("tiles"), h.Aria("label", "Overview"), g.Map(v.Tiles, tile.node)),
			h.Div(h.Class("plots"), g.Map(v.Plots, plot.node)),
			g.Map(v.Groups, groupView.node),
			g.If(len(v.Workloads) > 0, workloads(v)),
			h.Div(h.Class("plots"),
				h.Section(h.H2(g.Text("State")), facts(v.Facts)),
				g.If(v.Seal != nil, h.Section(h.H2(g.Text("Stopped by the guard")),
					g.If(len(v.Stopped) > 0, facts(v.Stopped)), g.If(len(v.Stopped) == 0, h.P(g.Text("nothing"))))),
			),
			g.If(len(v.Log) > 0, h.Section(h.H2(g.Text("Latest warnings and errors")),
				h.Ul(h.Class("log"), g.Map(v.Log, message.node)))),
			h.Footer(g.Text(v.Now.Format("2006-01-02 15:04:05 MST")+". Metrics for Prometheus: "),
				h.A(h.Href("/metrics"), g.Text("/metrics"))),
		)),
	))
}

func header(v *view) g.Node {
	class := "bad"
	if v.Ready {
		class = "good"
	}
	return h.Header(h.H1(g.Text("Sotto")), h.P(badge(class, v.State()), g.Textf(" version %s, up %s, PID %d", v.Version, v.Up, v.PID)))
}

func badge(class, text string) g.Node { return h.Span(h.Class("badge "+class), g.Text(text)) }

func (t tile) node() g.Node {
	return h.Div(h.Class("tile "+t.Class), h.H2(g.Text(t.Name)), h.Strong(g.Text(t.Value)), h.Small(g.Text(t.Note)))
}

func (p plot) node() g.Node {
	return h.Section(h.H2(g.Text(p.Title)),
		h.Figure(
			h.Span(h.Class("max"), g.Text(p.Max)),
			p.svg(""),
			h.FigCaption(h.Span(g.Text("five minutes ago")), h.Span(g.Text("now"))),
		),
		h.Ul(h.Class("legend"), g.Map(p.Lines, func(l line) g.Node {
			return h.Li(h.Class(l.Class), g.Text(l.Name+" "), h.B(g.Text(l.Now)))
		})),
	)
}

// svg returns the drawing, with a class if that is not "".
func (p plot) svg(class string) g.Node {
	return h.SVG(g.If(class != "", h.Class(class)), g.Attr("viewBox", fmt.Sprintf("0 0 %d %d", p.Width(), p.Height())),
		g.Attr("preserveAspectRatio", "none"), h.Role("img"), h.Aria("label", p.Title),
		g.Map(p.Lines, func(l line) g.Node { return g.El("path", h.Class(l.Class), g.Attr("d", l.Path)) }))
}

// column is the title of a column, with its class.
type column struct{ title, class string }

// table returns a table. The rows are those of its body.
func table(columns []column, rows g.Node) g.Node {
	return h.Table(
		h.THead(h.Tr(g.Map(columns, func(c column) g.Node { return h.Th(g.If(c.class != "", h.Class(c.class)), g.Text(c.title)) }))),
		h.TBody(rows),
	)
}

// cell returns a cell with a text.
func cell(class, text string) g.Node { return h.Td(h.Class(class), g.Text(text)) }

func (v groupView) node() g.Node {
	return h.Section(h.H2(g.Text("Upstreams: "+v.Name+" "), h.Small(g.Text(v.Policy))),
		table([]column{
			{"Server", ""}, {"State", ""}, {"Rate", "n"}, {"Usual", "n"}, {"p95", "n wide"}, {"Queries", "n wide"}, {"Failed", "n wide"}, {"Protocol", "wide"},
		}, g.Map(v.Servers, serverView.node)))
}

func (s serverView) node() g.Node {
	class := "bad"
	if s.State == "up" {
		class = "good"
	}
	return h.Tr(
		h.Td(g.Text(s.Server.Server), g.Map(s.Notes, func(note string) g.Node {
			return g.Group{h.Br(), h.Small(h.Class("note"), g.Text(note))}
		})),
		h.Td(badge(class, s.State)), cell("n", s.Rate), cell("n", s.Usual), cell("n wide", s.P95),
		cell("n wide", fmt.Sprint(s.Queries)), cell("n wide", fmt.Sprint(s.Failed)), cell("wide", s.Protocol),
	)
}

func workloads(v *view) g.Node {
	return h.Section(h.H2(g.Text("Workloads")),
		table([]column{
			{"Workload", ""}, {"Rate", "n"}, {"Five minutes", ""}, {"Queries", "n wide"}, {"Failed", "n"}, {"From cache", "n wide"}, {"Mean time", "n wide"},
		}, g.Map(v.Workloads, workloadView.node)),
		g.If(v.More > 0, h.P(g.Textf("and %d more", v.More))),
	)
}

func (w workloadView) node() g.Node {
	return h.Tr(
		h.Td(g.Text(w.Name), g.If(w.Path != "", h.Small(h.Class("path wide"), g.Text(w.Path)))),
		cell("n", w.Rate), h.Td(w.Plot.svg("spark")), cell("n wide", fmt.Sprint(w.Queries)),
		cell("n", w.Failed), cell("n wide", w.Cached), cell("n wide", w.Mean),
	)
}

func facts(list []fact) g.Node {
	return h.Dl(g.Map(list, func(f fact) g.Node { return g.Group{h.Dt(g.Text(f.Name)), h.Dd(g.Text(f.Value))} }))
}

func (m message) node() g.Node {
	return h.Li(h.Class(m.Level), h.B(g.Text(m.Level)), g.Text(" "+m.Age+" ago "), h.Span(g.Text(m.Text)))
}
