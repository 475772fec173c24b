//! Errors about a damaged image, as they are told: with its name, and what to do.

use super::Context;
use crate::error::Error;
use crate::fold::content::LeftOut;
use crate::store::catalog::Reads;
use crate::store::layout;
use crate::store::number::ImageId;

/// What names an image by its directory (`images/ID…`) gets the name that people know it by, and a
/// remedy if it has none.
pub fn named(context: &Context, error: Error) -> Error {
    let object = error.object.strip_prefix("images/").map(|rest| {
        let end = rest.find(|letter: char| !letter.is_ascii_digit());
        rest.get(..end.unwrap_or(rest.len())).unwrap_or_default()
    });
    let Some(id) = object.and_then(|id| layout::parse_image(id.as_bytes())) else {
        return error;
    };
    // There is an error to be told already.
    let Ok(Some(image)) = context.store.catalog().image(id) else {
        return error;
    };
    let object = format!("image {:?}: {}", image.name, error.object);
    match error.remedy.is_empty() {
        true => Error { object, ..error }.remedy("run `foldfs check`"),
        false => Error { object, ..error },
    }
}

/// Says of each image that it was left out, and why.
pub(super) fn sentences(context: &Context, left_out: &LeftOut) -> Vec<String> {
    let sentence = |(image, error): (&ImageId, &Error)| {
        let error = error.clone();
        let object = match error.object.starts_with("images/") {
            true => error.object,
            false => format!("images/{image}: {}", error.object),
        };
        named(context, Error { object, ..error }).to_string()
    };
    left_out.iter().map(sentence).collect()
}
