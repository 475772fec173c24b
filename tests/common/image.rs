//! A mounted image as a system that operations are carried out in, with all that must stay
//! invisible in it.

use std::rc::Rc;

use super::directory::{Directory, Scan, System, drop_caches};
use super::model::{Model, Outcome};
use super::op::{Invisible, Op};
use super::snapshot::{Depth, Fields, Snapshot};
use super::store::{Mounted, TestStore};

/// More clones than this only cost time.
const CLONES_MAX: usize = 2;

/// The image `first` of a family whose every image was made of the same tree; a second one is
/// mounted beside it and must never change.
#[derive(Debug)]
pub struct Image {
    store: Rc<TestStore>,
    directory: Directory,
    mounted: Option<Mounted>,
    sibling: Option<Mounted>,
    sibling_shows: Snapshot,
    imported: Vec<String>,
    clones: Vec<(String, Snapshot)>,
    imports: u32,
}

impl Image {
    /// Imports the sample twice and mounts both images.
    pub fn new(store: Rc<TestStore>) -> Image {
        let tree = store.sample(0);
        store.import("first", &tree, "family");
        store.import("second", &tree, "family");
        let mounted = store.mount("first");
        let sibling = store.mount("second");
        sibling.assert_shows(&tree);
        Image {
            directory: Directory::new(&mounted.path),
            sibling_shows: sibling.snapshot(),
            sibling: Some(sibling),
            mounted: Some(mounted),
            imported: Vec::new(),
            clones: Vec::new(),
            imports: 0,
            store,
        }
    }

    /// The model of what it shows now.
    pub fn model(&self) -> Model {
        Model::read(&self.mounted.as_ref().expect("it is mounted").path)
    }

    /// Unmounts, looks at the clones and has the store checked.
    pub fn finish(mut self) -> Result<(), String> {
        self.check_others()?;
        // Open files and mappings go first.
        drop(std::mem::replace(
            &mut self.directory,
            Directory::new(&self.store.place),
        ));
        let mounts = [self.mounted.take(), self.sibling.take()];
        mounts.into_iter().flatten().for_each(Mounted::unmount);
        for (name, expected) in std::mem::take(&mut self.clones) {
            let clone = self.store.mount(&name);
            let lines = expected.differences(&clone.snapshot(), Fields::ALL);
            if !lines.is_empty() {
                return Err(format!(
                    "clone {name} differs from its origin:\n{}",
                    lines.join("\n")
                ));
            }
            clone.unmount();
        }
        self.store.wait_for_daemons();
        self.store.assert_sound();
        Ok(())
    }

    fn remount(&mut self) {
        self.directory.leave();
        self.mounted.take().expect("it is mounted").unmount();
        self.mounted = Some(self.store.mount("first"));
        self.directory.enter();
    }
}

impl System for Image {
    fn name(&self) -> String {
        "the mounted image".into()
    }

    fn perform(&mut self, op: &Op<Vec<u8>>) -> Outcome {
        self.directory.perform(op)
    }

    fn invisible(&mut self, what: Invisible) {
        match what {
            Invisible::Fold => {
                self.store.ok(&["fold"]);
            }
            Invisible::Collect => {
                self.store.ok(&["collect"]);
            }
            Invisible::DropCaches => drop_caches(),
            Invisible::Import => {
                self.imports += 1;
                let name = format!("other{}", self.imports);
                let tree = self.store.sample(self.imports % 3);
                self.store.import(&name, &tree, "family");
                self.imported.push(name);
            }
            Invisible::Remove => {
                if let Some(name) = self.imported.pop() {
                    self.store.ok(&["remove", &name]);
                }
            }
            Invisible::Clone if self.clones.len() < CLONES_MAX => {
                let name = format!("clone{}", self.clones.len());
                let shows = self.directory.scan(Depth::Full).tree;
                self.store.ok(&["clone", "first", &name]);
                self.clones.push((name, shows));
            }
            Invisible::Clone => {}
            Invisible::Remount => self.remount(),
        }
    }

    fn scan(&mut self, depth: Depth) -> Scan {
        self.directory.scan(depth)
    }

    fn never_reuses_numbers(&self) -> bool {
        true
    }

    fn check_others(&mut self) -> Result<(), String> {
        let Some(sibling) = &self.sibling else {
            return Ok(());
        };
        let lines = self
            .sibling_shows
            .differences(&sibling.snapshot(), Fields::ALL);
        if lines.is_empty() {
            return Ok(());
        }
        Err(format!("the sibling image changed:\n{}", lines.join("\n")))
    }
}
