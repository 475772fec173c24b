//! What a plan that was carried out leaves to the next one.

use rayon::prelude::*;

use super::candidates::Candidate;
use super::content::{Ledger, Plan};
use super::examined::{Examined, FileId};
use super::residents::Print;
use crate::error::{Context, Result};
use crate::filesystem::altered::Altered;
use crate::filesystem::images::Images;
use crate::store::Store;
use crate::store::number::Number;

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing equals it.
    Resident(Print),
    /// It was in use.
    Again,
    /// It was folded.
    Done,
}

/// Remembers the files that nothing was equal to, and has the next plan look again at those that were
/// in use (those in `left` among them) or altered a moment ago.
///
/// # Errors
/// Those of the host.
pub fn settle(images: &Images, ledger: &mut Ledger, plan: Plan, left: &[FileId]) -> Result<()> {
    let fates = fates(&plan, left);
    // One image after the other, so that its list is gone before the next one's files are remembered.
    for (image, fates) in plan.images.into_iter().zip(fates) {
        let numbers = numbers(images.store(), &image, &fates)?;
        let id = image.subject.image.id;
        let residents = &mut ledger.residents;
        let mut again = image.candidates.recent.clone();
        let files = image.candidates.files.iter().zip(fates).zip(numbers);
        for ((file, fate), number) in files {
            let size = file.size;
            match (fate, number, &image.subject.altered) {
                (Fate::Resident(print), Some(number), Altered::All) => {
                    residents.insert(size, id, number, print);
                }
                (Fate::Resident(print), Some(number), Altered::Numbers(_)) => {
                    residents.renew(size, id, number, print);
                }
                (Fate::Again, Some(number), _) => again.push(number),
                (Fate::Done, ..) | (_, None, _) => {}
            }
        }
        images.note_altered(id, &Altered::Numbers(again));
    }
    Ok(())
}

fn fates(plan: &Plan, left: &[FileId]) -> Vec<Vec<Fate>> {
    let unlike_all = |image: &Examined| {
        let fate = Fate::Resident(Print::UNKNOWN);
        vec![fate; image.candidates.files.len()]
    };
    let mut fates: Vec<Vec<Fate>> = plan.images.iter().map(unlike_all).collect();
    let mut set = |(image, file): FileId, fate| fates[image as usize][file as usize] = fate;
    for (print, id) in &plan.unlike {
        set(*id, Fate::Resident(*print));
    }
    for id in plan.groups.iter().flat_map(|group| &group.files) {
        set(*id, Fate::Done);
    }
    for id in plan.busy.iter().chain(left) {
        set(*id, Fate::Again);
    }
    fates
}

/// The numbers of an image's files that are left; `None` for the others and for what is gone.
fn numbers(store: &Store, image: &Examined, fates: &[Fate]) -> Result<Vec<Option<Number>>> {
    let candidates = &image.candidates;
    let dirs = store.image_dirs(image.subject.image.id)?;
    let files = candidates.files.iter().zip(fates).collect::<Vec<_>>();
    let directories = files.par_chunk_by(|(left, _), (right, _)| left.directory == right.directory);
    let of_directory = directories.map(|files| -> rustix::io::Result<Vec<Option<Number>>> {
        let is_known =
            |(file, fate): &(&Candidate, &Fate)| file.number().is_some() || **fate == Fate::Done;
        if files.iter().all(is_known) {
            return Ok(files.iter().map(|(file, _)| file.number()).collect());
        }
        let Some(directory) = candidates.open(&dirs, files[0].0.directory)? else {
            return Ok(vec![None; files.len()]);
        };
        let numbers = files.iter().map(|(file, fate)| match fate {
            Fate::Done => Ok(None),
            _ => candidates.read_number(file, &directory),
        });
        numbers.collect()
    });
    let numbers = of_directory.collect::<rustix::io::Result<Vec<_>>>();
    let numbers = numbers.about(format!("images/{}", image.subject.image.id))?;
    Ok(numbers.into_iter().flatten().collect())
}
