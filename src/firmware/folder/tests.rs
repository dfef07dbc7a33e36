use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;

fn folder(max_size: u64) -> (TempDir, ImageFolder) {
    let dir = tempfile::tempdir().unwrap();
    let folder = ImageFolder::new(ImagesConfig { dir: dir.path().join("firmware"), max_size });
    fs::create_dir(dir.path().join("firmware")).unwrap();
    (dir, folder)
}

fn write(dir: &TempDir, name: &str, bytes: &[u8]) {
    fs::write(path(dir, name), bytes).unwrap();
}

fn path(dir: &TempDir, name: &str) -> PathBuf {
    dir.path().join("firmware").join(name)
}

fn name(name: &str) -> ImageName {
    name.parse().unwrap()
}

/// Sets the time of the last modification back, as if the file had been written then.
fn set_modified(file: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
}

#[test]
fn an_image_has_the_size_and_the_digest_of_its_file_and_is_read_in_parts() {
    let (dir, mut folder) = folder(1024);
    write(&dir, "a.bin", b"abc");
    let image = folder.describe(&name("a.bin")).unwrap();
    let of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!((image.size, image.sha256.to_string().as_str()), (3, of_abc));
    assert_eq!(folder.read(&name("a.bin"), &image, 1, 2), Ok(b"bc".to_vec()));
    assert_eq!(folder.read(&name("a.bin"), &image, 2, 2), Err(ImageError::Changed));
}

#[test]
fn a_file_that_is_no_image_is_refused_with_its_reason() {
    let (dir, mut folder) = folder(4);
    write(&dir, "large", b"12345");
    write(&dir, "most", b"1234");
    write(&dir, "empty", b"");
    fs::create_dir(path(&dir, "folder")).unwrap();
    fs::write(dir.path().join("outside"), b"1").unwrap();
    symlink("../outside", path(&dir, "link-outside")).unwrap();
    symlink("most", path(&dir, "link-inside")).unwrap();
    symlink("nothing", path(&dir, "link-to-nothing")).unwrap();
    assert!(Command::new("mkfifo").arg(path(&dir, "pipe")).status().unwrap().success());
    let expected = [
        ("large", Err(ImageError::TooLarge)),
        ("most", Ok(4)),
        ("empty", Err(ImageError::Empty)),
        ("absent", Err(ImageError::NotFound)),
        ("folder", Err(ImageError::NotRegular)),
        ("link-outside", Err(ImageError::NotRegular)),
        ("link-inside", Ok(4)),
        ("link-to-nothing", Err(ImageError::NotFound)),
        ("pipe", Err(ImageError::NotRegular)),
    ];
    for (image, expected) in expected {
        assert_eq!(folder.describe(&name(image)).map(|image| image.size), expected, "{image}");
    }
}

#[test]
fn a_file_that_was_written_replaced_or_removed_since_is_changed() {
    let (dir, mut folder) = folder(1024);
    let image = name("a.bin");
    write(&dir, "a.bin", b"first");
    set_modified(&path(&dir, "a.bin"), 1_700_000_000);
    let first = folder.describe(&image).unwrap();

    // Other bytes of the same length.
    write(&dir, "a.bin", b"other");
    assert_eq!(folder.read(&image, &first, 0, 5), Err(ImageError::Changed));
    let second = folder.describe(&image).unwrap();
    assert_ne!(second.sha256, first.sha256);
    assert_eq!(folder.read(&image, &second, 0, 5), Ok(b"other".to_vec()));

    // Another file.
    write(&dir, "b.bin", b"third");
    fs::rename(path(&dir, "b.bin"), path(&dir, "a.bin")).unwrap();
    assert_eq!(folder.read(&image, &second, 0, 5), Err(ImageError::Changed));
    fs::remove_file(path(&dir, "a.bin")).unwrap();
    assert_eq!(folder.read(&image, &second, 0, 5), Err(ImageError::Changed));
}

#[test]
fn the_digest_of_a_file_is_computed_once() {
    let (dir, mut folder) = folder(1024);
    write(&dir, "a.bin", b"first");
    let first = folder.describe(&name("a.bin")).unwrap();
    let other = ImageDigest::new([7; 32]);
    folder.digests.insert((first.file, first.size), other);
    assert_eq!(folder.describe(&name("a.bin")).map(|image| image.sha256), Ok(other));
}

#[test]
fn a_file_with_other_bytes_and_the_time_of_before_is_changed() {
    let (dir, mut folder) = folder(1024);
    let image = name("a.bin");
    write(&dir, "a.bin", b"first");
    set_modified(&path(&dir, "a.bin"), 1_700_000_000);
    let first = folder.describe(&image).unwrap();
    let written = fs::metadata(path(&dir, "a.bin")).unwrap().ctime_nsec();
    // The clock of the file system may be coarse.
    while fs::metadata(path(&dir, "a.bin")).unwrap().ctime_nsec() == written {
        write(&dir, "a.bin", b"other");
        set_modified(&path(&dir, "a.bin"), 1_700_000_000);
    }
    assert_eq!(folder.read(&image, &first, 0, 5), Err(ImageError::Changed));
    assert_ne!(folder.describe(&image).unwrap().sha256, first.sha256);
}

#[test]
fn a_file_with_the_same_bytes_is_the_same_image_whatever_its_inode_and_its_times() {
    let (dir, mut folder) = folder(1024);
    let image = name("a.bin");
    write(&dir, "a.bin", b"first");
    let first = folder.describe(&image).unwrap();
    write(&dir, "b.bin", b"first");
    fs::rename(path(&dir, "b.bin"), path(&dir, "a.bin")).unwrap();
    set_modified(&path(&dir, "a.bin"), 1_700_000_000);
    assert_ne!(folder.describe(&image).unwrap().file, first.file);
    assert_eq!(folder.read(&image, &first, 1, 4), Ok(b"irst".to_vec()));
    // The gateway was restarted meanwhile.
    let mut next = ImageFolder::new(ImagesConfig { dir: dir.path().join("firmware"), max_size: 1024 });
    assert_eq!(next.read(&image, &first, 1, 4), Ok(b"irst".to_vec()));
}

#[test]
fn without_its_folder_no_image_exists() {
    let mut folder = ImageFolder::new(ImagesConfig { dir: PathBuf::from("/nonexistent/firmware"), max_size: 1 });
    assert_eq!(folder.describe(&name("a.bin")), Err(ImageError::NotFound));
}
