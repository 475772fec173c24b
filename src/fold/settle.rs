//! What a plan that was carried out leaves to the next one.

use rayon::prelude::*;

use super::candidates::Candidate;
use super::content::{Ledger, Plan};
use super::examined::{Examined, FileId};
use super::residents::Print;
use crate::filesystem::altered::Altered;
use crate::filesystem::images::Images;
use crate::store::ImageDirs;
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

/// What carrying out a plan left as it was.
#[derive(Debug, Default)]
pub struct Left {
    /// Files that were in use.
    pub busy: Vec<FileId>,
    /// Files that could not be read.
    pub damaged: Vec<FileId>,
}

/// Remembers the files that nothing was equal to, and has the next plan look again at those that were
/// in use or altered a moment ago. One that could not be read is looked at again when it is altered, or
/// something of its size comes.
pub fn settle(images: &Images, ledger: &mut Ledger, plan: Plan, left: &Left) {
    let fates = fates(&plan, left);
    // One image after the other, so that its list is gone before the next one's files are remembered.
    for (image, fates) in plan.images.into_iter().zip(fates) {
        // Without directories it was removed meanwhile, or left out.
        let Ok(dirs) = images.store().image_dirs(image.subject.image.id) else {
            continue;
        };
        let numbers = numbers(&dirs, &image, &fates);
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
}

fn fates(plan: &Plan, left: &Left) -> Vec<Vec<Fate>> {
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
    for id in plan.busy.iter().chain(&left.busy) {
        set(*id, Fate::Again);
    }
    for id in &left.damaged {
        set(*id, Fate::Resident(Print::UNKNOWN));
    }
    fates
}

/// The numbers of an image's files that are left; `None` for the others and for what is gone.
fn numbers(dirs: &ImageDirs, image: &Examined, fates: &[Fate]) -> Vec<Option<Number>> {
    let candidates = &image.candidates;
    let files = candidates.files.iter().zip(fates).collect::<Vec<_>>();
    let directories = files.par_chunk_by(|(left, _), (right, _)| left.directory == right.directory);
    let of_directory = directories.map(|files| -> Vec<Option<Number>> {
        let is_known =
            |(file, fate): &(&Candidate, &Fate)| file.number().is_some() || **fate == Fate::Done;
        if files.iter().all(is_known) {
            return files.iter().map(|(file, _)| file.number()).collect();
        }
        // What cannot be read now is not compared with anything before it is altered.
        let Ok(Some(directory)) = candidates.open(dirs, files[0].0.directory) else {
            return vec![None; files.len()];
        };
        let numbers = files.iter().map(|(file, fate)| match fate {
            Fate::Done => None,
            _ => candidates.read_number(file, &directory).ok().flatten(),
        });
        numbers.collect()
    });
    let numbers: Vec<Vec<Option<Number>>> = of_directory.collect();
    numbers.into_iter().flatten().collect()
}
