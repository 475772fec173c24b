//! A walk on several threads: one goes a few levels down, and what is below is shared out.

use std::panic::resume_unwind;
use std::thread;

use parking_lot::Mutex;

use super::walk::{Compared, Found, Pass};
use super::{Scope, Tree};
use crate::error::Result;

/// How deep the first one goes: in a system that is /usr/share/doc and the like.
const DEPTH: usize = 3;

/// How many there are at most.
const THREADS: usize = 4;

/// Walks both trees once; `None` where a tree can be walked by one thread only, or there is one core only.
///
/// # Errors
/// Those of reading the trees.
pub(super) fn pass(
    old: &dyn Tree,
    new: &dyn Tree,
    scope: &Scope,
    compared: &Compared,
) -> Result<Option<Found>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut pairs = Vec::new();
    for _ in 0..cores.min(THREADS) {
        match (old.another()?, new.another()?) {
            (Some(old), Some(new)) => pairs.push((old, new)),
            _ => return Ok(None),
        }
    }
    let [(first_old, first_new), _, ..] = &mut pairs[..] else {
        return Ok(None);
    };
    let mut first = Pass::new(&mut **first_old, &mut **first_new, scope, compared);
    let deferred = Mutex::new(first.run(DEPTH)?.into_iter());
    let mut all = first.found;
    let work = |(mut old, mut new): (Box<dyn Tree + Send + '_>, Box<dyn Tree + Send + '_>)| {
        let mut pass = Pass::new(&mut *old, &mut *new, scope, compared);
        loop {
            let next = deferred.lock().next();
            match next {
                Some(next) => pass.below(&next)?,
                None => return Ok(pass.found),
            }
        }
    };
    thread::scope(|threads| {
        let spawn = |pair| threads.spawn(|| work(pair));
        let begun: Vec<_> = pairs.into_iter().map(spawn).collect();
        for thread in begun {
            let found = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            all.add(found?);
        }
        Ok(Some(all))
    })
}
