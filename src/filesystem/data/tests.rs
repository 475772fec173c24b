use super::*;
use crate::filesystem::open::OpenFlags;
use crate::filesystem::test_image::{OLD, TestImage};

const WRITE: OpenFlags = OpenFlags {
    write: true,
    truncate: false,
};

#[test]
fn shared_files_read_as_they_are() {
    let image = TestImage::new();
    assert_eq!(image.content(&image.node("dir/file")), b"shared content");
    assert_eq!(image.content(&image.node("dir/empty")), b"");
    assert_eq!(image.fs.open_handles(), 0);
}

#[test]
fn the_first_write_promotes_and_every_handle_sees_it() {
    let image = TestImage::new();
    let node = image.node("dir/file");
    let before = image.fs.attributes(&node).unwrap();
    let reader = image.fs.open(&node, OpenFlags::default()).unwrap();
    let writer = image.fs.open(&node, WRITE).unwrap();
    assert_eq!(image.fs.attributes(&node).unwrap(), before);
    assert_eq!(image.fs.handle_needs_promotion(writer).unwrap(), Some(14));

    assert_eq!(
        image.fs.write(writer, 7, b"CONTENT", SetId::Keep).unwrap(),
        7
    );
    assert_eq!(image.fs.handle_needs_promotion(writer).unwrap(), None);
    let mut buffer = [0; 20];
    assert_eq!(image.fs.read(reader, 0, &mut buffer).unwrap(), 14);
    assert_eq!(&buffer[..14], b"shared CONTENT");
    let after = image.fs.attributes(&node).unwrap();
    assert_eq!(after.number, before.number);
    assert!(after.mtime > OLD && after.ctime > OLD, "{after:?}");
    image.fs.release(writer);
    assert_eq!(image.fs.read(reader, 7, &mut buffer).unwrap(), 7);
    image.fs.release(reader);
    assert!(node.state.lock().open.is_none());
    assert_eq!(image.content(&node), b"shared CONTENT");
    assert_eq!(image.debris(), 0);
}
