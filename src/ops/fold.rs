//! fold: what is equal is kept once. Content first, then placement; no view looks different for it.

use super::context::Context;
use super::report::{FamilyFold, FoldReport};
use super::{damaged, place};
use crate::error::{Error, Result};
use crate::filesystem::altered::Altered;
use crate::fold::content::{self, Counts, Ledger, LeftOut};
use crate::fold::effort::Effort;
use crate::fold::examined::Subject;
use crate::fold::folding;
use crate::progress::Progress;
use crate::store::catalog::{Family, Reads};

/// What to fold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// One family; `None`: all.
    pub family: Option<String>,
}

/// What a fold will do.
pub struct Plan {
    families: Vec<Family>,
    content: content::Plan,
}

/// Compares the private files of all images of the families with each other and with all objects.
///
/// # Errors
/// There is no such family; the host's and the catalog's.
pub fn plan(context: &Context, options: &Options, progress: &dyn Progress) -> Result<Plan> {
    let catalog = context.store.catalog();
    let families = match &options.family {
        None => catalog.families()?,
        Some(name) => {
            let family = catalog.family_by_name(name)?;
            vec![family.ok_or_else(|| no_family(name))?]
        }
    };
    let mut subjects = Vec::new();
    for family in &families {
        for image in catalog.images_of(family.id)? {
            let mounted = !context.mounted_on(image.id).is_empty();
            subjects.push(Subject {
                image,
                mounted,
                altered: Altered::All,
            });
        }
    }
    let content = content::plan(
        &context.images,
        subjects,
        &mut Ledger::default(),
        None,
        &Effort::full(context.threads),
        progress,
    )?;
    Ok(Plan { families, content })
}

fn no_family(name: &str) -> Error {
    Error::failed(format!("family {name:?}"), "it does not exist")
        .remedy("foldfs list shows all families")
}

impl Plan {
    /// What would be reported if all of it were done now.
    ///
    /// # Errors
    /// Those of reading the private layers and the catalog.
    pub fn report(&self, context: &Context, progress: &dyn Progress) -> Result<FoldReport> {
        let counts = self.content.counts();
        self.place(context, &counts, self.content.damaged(), true, progress)
    }

    /// Ends with the families' placement.
    fn place(
        &self,
        context: &Context,
        counts: &[Counts],
        mut left_out: LeftOut,
        dry_run: bool,
        progress: &dyn Progress,
    ) -> Result<FoldReport> {
        left_out.extend(self.content.left_out.clone());
        let mut left_out = damaged::sentences(context, &left_out);
        let mut families = Vec::new();
        for family in &self.families {
            let mut fold = FamilyFold {
                family: family.name.clone(),
                ..FamilyFold::default()
            };
            let images = self.content.images.iter().zip(counts);
            for (image, counts) in
                images.filter(|(image, _)| image.subject.image.family == family.id)
            {
                fold.examined += image.candidates.files.len() as u64;
                fold.unchanged += image.unchanged;
                fold.held_files += image.candidates.held;
                fold.folded_files += counts.files;
                fold.folded_bytes += counts.bytes;
                fold.freed_bytes += counts.freed;
                fold.busy_files += counts.busy;
                fold.damaged_files += counts.damaged;
            }
            let placed = place::run_if_sound(
                context,
                family,
                dry_run,
                &Effort::full(context.threads),
                &mut left_out,
                progress,
            )?;
            fold.shared_paths = placed.shared;
            fold.unshared_paths = placed.replaced + placed.withdrawn;
            families.push(fold);
        }
        Ok(FoldReport { families, left_out })
    }
}

/// Folds. Files that have come into use since are left alone and counted; what is damaged is left out,
/// and named.
///
/// # Errors
/// The host's and the catalog's; what is done by then stays done, and no view has changed.
pub fn apply(context: &Context, plan: &Plan, progress: &dyn Progress) -> Result<FoldReport> {
    let applied = folding::apply(
        &context.images,
        &plan.content,
        &Effort::full(context.threads),
        progress,
    )?;
    let mut left_out = plan.content.damaged();
    for (image, reason) in applied.reasons {
        left_out.entry(image).or_insert(reason);
    }
    left_out.extend(applied.left_out);
    plan.place(context, &applied.counts, left_out, false, progress)
}
