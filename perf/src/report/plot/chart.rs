//! The picture itself, on any surface.

use std::ops::Range;

use plotters::chart::ChartBuilder;
use plotters::coord::Shift;
use plotters::coord::combinators::IntoLogRange;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::drawing::DrawingArea;
use plotters::element::{PathElement, Text};
use plotters::prelude::DrawingBackend;
use plotters::series::LineSeries;
use plotters::style::{Color, IntoFont, RGBColor, ShapeStyle, TextStyle, WHITE};

use super::curves::{self, Curve, nines};
use super::{FONT, PlotError};
use crate::report::units::{binary, decimal, time};

type Surface<B> = DrawingArea<B, Shift>;

/// How high a picture of these curves is.
pub(super) fn height_px(curves: &[Curve]) -> u32 {
    charts_px(curves) + (curves.len() as u32).div_ceil(LEGEND_COLUMNS) * LEGEND_LINE_PX + MARGIN_PX
}

/// Draws the charts, and the legend under them.
pub(super) fn draw<B: DrawingBackend>(surface: &Surface<B>, curves: &[Curve]) -> Result<(), PlotError> {
    surface.fill(&WHITE).map_err(failed)?;
    let (charts, below) = surface.split_vertically(charts_px(curves));
    if has_rates(curves) {
        let (above, below) = charts.split_vertically(CHART_PX);
        percentiles(&above, curves)?;
        rates(&below, curves)?;
    } else {
        percentiles(&charts, curves)?;
    }
    legend(&below, curves)?;
    surface.present().map_err(failed)
}

/// Latencies on an axis of powers of ten, over percentiles on one of nines.
fn percentiles<B: DrawingBackend>(surface: &Surface<B>, curves: &[Curve]) -> Result<(), PlotError> {
    let points = || curves.iter().flat_map(|curve| &curve.percentiles);
    let nines_max = points().map(|(nines, _)| *nines).fold(1.0, f64::max);
    let min = points().map(|(_, us)| *us).fold(f64::INFINITY, f64::min);
    let max = points().map(|(_, us)| *us).fold(0.0, f64::max);
    // Where there is nothing, an empty chart.
    let (min, max) = if min <= max { (min * 0.8, max * 1.25) } else { (1.0, 1000.0) };
    let x_axis = NinesAxis { max: nines_max };
    let mut chart = builder(surface, "latency by percentile")
        .build_cartesian_2d(x_axis, (min..max).log_scale())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .label_style(small())
        .bold_line_style(GRID)
        .light_line_style(LIGHT_GRID)
        .axis_style(AXIS)
        .x_label_formatter(&|nines| percent_text(*nines))
        .y_label_formatter(&|us| time(us * 1000.0).replace(".00", "").replace(".0", ""))
        .draw()
        .map_err(failed)?;
    for (index, curve) in curves.iter().enumerate() {
        let line = LineSeries::new(curve.percentiles.iter().copied(), stroke(index));
        chart.draw_series(line).map_err(failed)?;
    }
    Ok(())
}

/// Requests, or bytes, a second over time.
fn rates<B: DrawingBackend>(surface: &Surface<B>, curves: &[Curve]) -> Result<(), PlotError> {
    let is_bulk = curves::is_bulk(curves);
    let points = |curve: &Curve| if is_bulk { curve.bytes_per_second.clone() } else { curve.iops.clone() };
    let all = || curves.iter().flat_map(points);
    let time_max = all().map(|(time_s, _)| time_s).fold(TIME_AXIS_MIN, f64::max);
    let rate_max = all().map(|(_, rate)| rate).fold(1.0, f64::max) * 1.1;
    let title = if is_bulk { "bytes a second over time" } else { "requests a second over time" };
    let mut chart =
        builder(surface, title).build_cartesian_2d(0.0..time_max, 0.0..rate_max).map_err(failed)?;
    chart
        .configure_mesh()
        .label_style(small())
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .axis_style(AXIS)
        .x_label_formatter(&|time_s| format!("{time_s} s"))
        .y_label_formatter(&|rate| if is_bulk { binary(*rate) } else { decimal(*rate) })
        .draw()
        .map_err(failed)?;
    for (index, curve) in curves.iter().enumerate() {
        let line = LineSeries::new(points(curve), stroke(index));
        chart.draw_series(line).map_err(failed)?;
    }
    Ok(())
}

/// Names of lines beside their colours, in columns.
fn legend<B: DrawingBackend>(surface: &Surface<B>, curves: &[Curve]) -> Result<(), PlotError> {
    let column_px = surface.dim_in_pixel().0 / LEGEND_COLUMNS;
    for (index, curve) in curves.iter().enumerate() {
        let (column, line) = (index as u32 % LEGEND_COLUMNS, index as u32 / LEGEND_COLUMNS);
        let x = (column * column_px + LABELS_PX) as i32;
        let y = (line * LEGEND_LINE_PX + LEGEND_LINE_PX / 2) as i32;
        let sample = PathElement::new([(x, y), (x + 24, y)], stroke(index));
        surface.draw(&sample).map_err(failed)?;
        let label = Text::new(curve.label.clone(), (x + 32, y - 7), small());
        surface.draw(&label).map_err(failed)?;
    }
    Ok(())
}

fn builder<'a, 'b, B: DrawingBackend>(surface: &'a Surface<B>, title: &str) -> ChartBuilder<'a, 'b, B> {
    let mut builder = ChartBuilder::on(surface);
    builder
        .caption(title, (FONT, 18))
        .margin(MARGIN_PX)
        // Half of the last mark's label.
        .margin_right(RIGHT_PX)
        .x_label_area_size(X_LABELS_PX)
        .y_label_area_size(LABELS_PX);
    builder
}

/// An axis from no nines on.
struct NinesAxis {
    max: f64,
}

impl Ranged for NinesAxis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        limit.0 + (value / self.max * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        let marks = AXIS_PERCENTILES.map(nines).into_iter();
        // What computing leaves is no reason to miss the last mark.
        marks.filter(|mark| *mark <= self.max + 1e-9).collect()
    }

    fn range(&self) -> Range<f64> {
        0.0..self.max
    }
}

fn has_rates(curves: &[Curve]) -> bool {
    curves.iter().any(|curve| !curve.iops.is_empty())
}

fn charts_px(curves: &[Curve]) -> u32 {
    if has_rates(curves) { 2 * CHART_PX } else { CHART_PX }
}

fn small() -> TextStyle<'static> {
    (FONT, 14).into_font().into()
}

fn stroke(index: usize) -> ShapeStyle {
    COLOURS[index % COLOURS.len()].stroke_width(2)
}

/// `99.9%`
fn percent_text(nines: f64) -> String {
    let percent = 100.0 * (1.0 - 10f64.powf(-nines));
    // As many digits as there are nines, without what computing left.
    let digits = (nines.round() as usize).saturating_sub(2);
    format!("{percent:.digits$}%")
}

fn failed(error: impl std::fmt::Display) -> PlotError {
    PlotError::Draw(error.to_string())
}

/// Marks of the axis, as far as there are points.
const AXIS_PERCENTILES: [f64; 8] = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999];
/// The time axis of the shortest jobs, seconds.
const TIME_AXIS_MIN: f64 = 0.001;
const CHART_PX: u32 = 320;
const MARGIN_PX: u32 = 12;
const RIGHT_PX: u32 = 36;
const LABELS_PX: u32 = 64;
const X_LABELS_PX: u32 = 28;
const LEGEND_COLUMNS: u32 = 2;
const LEGEND_LINE_PX: u32 = 20;
const GRID: RGBColor = RGBColor(215, 215, 215);
const LIGHT_GRID: RGBColor = RGBColor(242, 242, 242);
const AXIS: RGBColor = RGBColor(120, 120, 120);
/// Told apart by most eyes; then they start over.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0xc0, 0x39, 0x2b),
    RGBColor(0x4a, 0x78, 0xb5),
    RGBColor(0xe0, 0xa0, 0x30),
    RGBColor(0x3a, 0x8f, 0x5c),
    RGBColor(0x8e, 0x5a, 0xa8),
    RGBColor(0x5b, 0xb5, 0xc4),
    RGBColor(0x7a, 0x54, 0x3a),
    RGBColor(0x9a, 0xa0, 0xa6),
];
