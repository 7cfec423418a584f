//! Reports as a picture: latencies by percentile above, rates over time below.
//!
//! `curves` are what is drawn, `chart` draws them on whatever takes lines and letters; here that becomes a
//! file. Letters come from a font within this binary, so that a picture needs nothing of the machine.

mod chart;
mod curves;

#[cfg(test)]
mod tests;

use std::path::Path;

use plotters::backend::{BitMapBackend, SVGBackend};
use plotters::drawing::IntoDrawingArea;
use plotters::style::{FontStyle, register_font};

use self::curves::Curve;
use super::figures::Report;

/// Most lines of a picture; more couldn't be told apart.
pub const CURVES_MAX: usize = 24;

/// What a picture is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines and letters that scale.
    Svg,
    /// Pixels.
    Png,
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// Nothing to draw.
    #[error(
        "there is nothing to draw: no job of these reports has latency percentiles or a series of seconds"
    )]
    Nothing,
    /// Too much to draw.
    #[error("{0} lines are more than {CURVES_MAX}, which nobody could tell apart; give fewer reports")]
    TooMany(usize),
    /// The library.
    #[error("the picture can't be drawn: {0}")]
    Draw(String),
    /// Pixels as a file.
    #[error("the picture can't be encoded: {0}")]
    Encode(#[from] png::EncodingError),
}

impl Format {
    /// The one that a file's name asks for.
    pub fn of(path: &Path) -> Option<Format> {
        match path.extension()?.to_str()? {
            "svg" => Some(Format::Svg),
            "png" => Some(Format::Png),
            _ => None,
        }
    }
}

/// The content of a picture's file: a line for each kind of requests of each job of each report.
pub fn draw(reports: &[Report], format: Format) -> Result<Vec<u8>, PlotError> {
    let curves = curves::curves(reports);
    if curves.is_empty() {
        return Err(PlotError::Nothing);
    }
    if curves.len() > CURVES_MAX {
        return Err(PlotError::TooMany(curves.len()));
    }
    register_font(FONT, FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| PlotError::Draw("the font is damaged".into()))?;
    let size = (WIDTH_PX, chart::height_px(&curves));
    match format {
        Format::Svg => svg(&curves, size),
        Format::Png => png(&curves, size),
    }
}

fn svg(curves: &[Curve], size: (u32, u32)) -> Result<Vec<u8>, PlotError> {
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
    chart::draw(&area, curves)?;
    drop(area);
    Ok(text.into_bytes())
}

fn png(curves: &[Curve], size: (u32, u32)) -> Result<Vec<u8>, PlotError> {
    let mut pixels = vec![0; size.0 as usize * size.1 as usize * 3];
    let area = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
    chart::draw(&area, curves)?;
    drop(area);
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, size.0, size.1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(file)
}

/// What an SVG asks its viewer for, and what the font within is registered as.
const FONT: &str = "sans-serif";
const WIDTH_PX: u32 = 960;
