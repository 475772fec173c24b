//! What the images of a store show, read in this process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use foldfs::ops::Context;
use foldfs::store::catalog::Reads;
use foldfs::store::{Access, Store};

use crate::command::{Command, Third};
use crate::common::store::TestStore;
use crate::family::{self, Snapshot, seen};

/// By name.
pub type Views = BTreeMap<String, Snapshot>;

/// What all images show, bases included.
pub fn views(store: &TestStore) -> Views {
    let store = Arc::new(Store::open(&store.path, Access::Write).unwrap());
    let context = Context::new(store.clone(), 1);
    let images = store.catalog().images().unwrap();
    let view = |id| seen::in_layers(&store, &context.images.filesystem(id).unwrap());
    images
        .into_iter()
        .map(|image| (image.name, view(image.id)))
        .collect()
}

/// What there was before the commands.
pub struct Expected<'a> {
    pub before: Views,
    /// What images are made of.
    pub trees: &'a Path,
    /// Whether a guest works in the image `first`.
    pub beside: bool,
}

impl Expected<'_> {
    /// Every image there is shows what it must, and there are those that there must be.
    #[track_caller]
    pub fn assert_shown(
        self,
        store: &TestStore,
        pair: &[&Command; 2],
        done: &[bool; 2],
        what: &str,
    ) {
        let mut found = views(store);
        let take = |found: &mut Views, name: &str| {
            let view = found.remove(name);
            view.unwrap_or_else(|| panic!("{what}: {name} is missing"))
        };
        let expect = |found: &mut Views, name: &str, like: &str| {
            let mut expected = self.before[like].clone();
            let mut view = take(found, name);
            if self.beside && name == "first" {
                // Where the guest was at work.
                for view in [&mut expected, &mut view] {
                    let var = view.get_mut("var").unwrap();
                    (var.mtime, var.ctime) = Default::default();
                }
            }
            family::assert_same(&expected, &view, &format!("{what}: {name}"));
        };
        for name in ["family", "first", "second"] {
            expect(&mut found, name, name);
        }
        let taken = (0..2).any(|index| done[index] && pair[index].third == Third::Takes);
        if !taken {
            expect(&mut found, "third", "third");
        }
        for index in 0..2 {
            let Some(name) = pair[index].makes(index).filter(|_| done[index]) else {
                continue;
            };
            let tree = match pair[index].name {
                "clone" | "rename" => {
                    expect(&mut found, &name, "third");
                    continue;
                }
                "import" => self.trees.join("1"),
                "same-name" => self.trees.join("2"),
                _ => self.trees.join("garbage"),
            };
            family::assert_shows(&take(&mut found, &name), &tree);
            if pair[index].name == "found" {
                let base = take(&mut found, &format!("{name}-family"));
                family::assert_shows(&base, &tree);
            }
        }
        assert!(found.is_empty(), "{what}: nobody made {:?}", found.keys());
    }
}
