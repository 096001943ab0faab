use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A tree of words as BuildKit's own tests have them: `dir/`, `link>target`, `file=content`.
fn tree(words: &str) -> (tempfile::TempDir, RootDir) {
    let dir = tempfile::tempdir().unwrap();
    let root = RootDir::open(dir.path()).unwrap();
    root.chmod(Path::new(""), 0o755).unwrap();
    for word in words.split_whitespace() {
        if let Some((path, target)) = word.split_once('>') {
            symlink(target, dir.path().join(path)).unwrap();
        } else if let Some(path) = word.strip_suffix('/') {
            root.mkdir(Path::new(path), 0o755).unwrap();
        } else {
            let (path, content) = word.split_once('=').unwrap();
            root.create(Path::new(path), 0o644, true).unwrap();
            fs::write(dir.path().join(path), content).unwrap();
        }
    }
    (dir, root)
}

/// `path`, then words: `wild`, `follow`, `+include`, `-exclude`, `!required`.
fn selector(text: &str) -> Selector {
    let (path, words) = text.split_once(' ').unwrap_or((text, ""));
    let mut selector = Selector {
        path: path.to_owned(),
        ..Selector::default()
    };
    for word in words.split_whitespace() {
        match word.split_at(1) {
            ("+", pattern) => selector.include.push(pattern.to_owned()),
            ("-", pattern) => selector.exclude.push(pattern.to_owned()),
            ("!", path) => selector.required.push(path.to_owned()),
            _ if word == "wild" => selector.wildcard = true,
            _ => selector.follow_links = true,
        }
    }
    selector
}

fn digest(words: &str, select: &str) -> String {
    let (_dir, root) = tree(words);
    match Tree::new().select(&root, &selector(select)) {
        Ok(digest) => digest.to_string(),
        Err(error) => error.to_string(),
    }
}

/// `want` is `sha256:…` or the digest's first digits.
fn check(words: &str, select: &str, want: &str) {
    let got = digest(words, select);
    assert!(
        got.trim_start_matches("sha256:").starts_with(want),
        "{words} | {select}: {got}"
    );
}

const BASIC: &str = "foo=data0 bar=data1 d0/ d0/abc=data0 d0/def>abc d0/ghi>nosuchfile";

#[test]
fn digests_are_buildkits() {
    // The values are those in cache/contenthash/checksum_test.go.
    const DATA0: &str = "cd8e75bca50f2d695f220d0cb0997d8ead387e4f926e8669a92d7f104cc9885b";
    const D0: &str = "d47454417d2c554067fbefe5f5719edc49f3cfe969c36b62e34a187a4da0cc9a";
    check(BASIC, "foo follow", DATA0);
    check(
        BASIC,
        "bar follow",
        "c2b5e234f5f38fc5864da7def04782f82501a40d46192e4207d5b3f0c3c4732b",
    );
    check(BASIC, "d0/abc follow", DATA0);
    check(BASIC, "d0/def follow", DATA0);
    check(
        BASIC,
        "/ follow",
        "427c9cf9ae98c0f81fb57a3076b965c7c149b6b0a85625ad4e884236649a42c6",
    );
    check(BASIC, "d0", D0);
    check("abc=data0 def>abc ghi>nosuchfile", "/", D0);
    let modified = "555ffa3028630d97ba37832b749eda85ab676fd64ffb629fbf0f4ec8c1e3bff1";
    check("abc=data0 def>abc", "/", modified);
    check(
        "aa/ aa/bb/ aa/bb/cc/ aa/bb/cc/dd=data0 aa/ln>/aa",
        "aa/ln/bb/cc/dd",
        DATA0,
    );

    let wild = "bar=data1 foo=data0 fox=data2 x/ x/d0/ x/d0/abc=data0 x/d0/def>abc \
                x/d0/ghi>nosuchfile y1>foo y2>fox";
    let foos = "0b6731924f0a32a812bf8a729202e55e54ded331f9e4ff2397f681e43694e086";
    check(wild, "f* wild", foos);
    let by_file = "6b612ad5c13159112ae26357ef7bd34df29916941ba40ec2ce38dfb70c6c60c3";
    check(wild, "x/d? wild", by_file);
    check(wild, "x/d?/def wild follow", DATA0);
    let links = "982153600b9653a1decb0f961e09e2bc1be335cfcaac9b39dbd1120b65fdf92c";
    check(wild, "y* wild follow", links);
    let one = Digest::of(format!("\0foosha256:{DATA0}")).hex();
    check(wild, "f*o wild", &one);

    let links = "target=data0 sym>target sym2>target2 foo/ foo/ghi>target y1>foo/ghi";
    let sym = "a2ba571981f48ec34eb79c9a3ab091b6491e825c2f7e9914ea86e8e958be7fae";
    check(links, "sym wild", sym);
    check(links, "foo/ghi wild", sym);
    check(links, "foo/ghi", sym);
    check(links, "foo/ghi wild follow", "\"/foo/ghi\": not found");
    check(links, "y1 wild follow", "\"/y1\": not found");
}

#[test]
fn what_is_missing_is_named() {
    check(BASIC, "nosuch", "\"/nosuch\": not found");
    check(BASIC, "/d0/ghi follow", "\"/d0/ghi\": not found");
    check(BASIC, "/foo/x/../y", "\"/foo/y\": not found");
    check(BASIC, "/ +d0/abc !/d0/nosuch", "\"/d0/nosuch\": not found");
    check("a>b b>a", "a follow", "too many links");
    check(BASIC, "/ +[", "invalid include or exclude patterns");
}

#[test]
fn only_what_is_selected_counts() {
    let more = "foo=data0 bar=data1 baz=data2 d0/ d0/abc=abc d0/xyz=xyz d1/ d1/def=def d2/";
    let less = "foo=data0 bar=data1 d0/ d0/abc=abc d1/ d1/def=def";
    let nothing = Digest::of("").to_string();
    for wild in ["", " wild"] {
        let at = |words: &str, select: &str| digest(words, &format!("{select}{wild}"));
        for (same, select) in [
            (true, " +foo"),
            (true, " +foo +bar"),
            (true, " +d1"),
            (true, " +d0/a*"),
            (true, " +d1/*"),
            (true, " +**/abc"),
            (true, " +d2/foo"),
            (true, "d1 -x"),
            (false, " +d0"),
            (false, " +d0/*"),
            (false, "d0 -x"),
            (false, " -d1"),
        ] {
            assert_eq!(at(less, select) == at(more, select), same, "{select}");
        }
        assert_eq!(at(less, " +d0/*"), at(more, " +d0/* -d0/xyz"));
        assert_eq!(at(more, " +d0/a*"), at(more, " +**/abc"));
        assert_eq!(at(more, " +d2/foo"), nothing);
        assert_eq!(at(more, "none -x"), nothing);
        assert_ne!(at(more, " +foo"), at(more, " +foo +bar"));
    }
    assert_ne!(digest(more, "d0/ -x"), digest(more, "d0 -x"));
}

#[test]
fn metadata_counts_but_not_time_and_labels() {
    let (_dir, root) = tree("d/ d/f=x");
    let file = Path::new("d/f");
    let whole = || Tree::new().select(&root, &Selector::default()).unwrap();
    let changes = |change: &dyn Fn()| {
        let before = whole();
        change();
        whole() != before
    };
    let xattr = |name: &str, value: &[u8]| root.set_xattr(file, name.as_ref(), value).unwrap();
    let follow = sys::root::Follow::No;
    assert!(!changes(&|| root.set_mtime(file, 5, follow).unwrap()));
    assert!(!changes(&|| xattr("trusted.overlay.origin", b"1")));
    assert!(changes(&|| root.chmod(file, 0o600).unwrap()));
    assert!(changes(&|| root.chown(file, 1, 2, follow).unwrap()));
    assert!(changes(&|| xattr("user.x", b"1")));
    assert!(changes(&|| xattr("user.x", b"2")));
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    assert!(changes(&|| xattr("security.capability", capability)));
    assert!(changes(&|| root.chmod(Path::new("d"), 0o700).unwrap()));
    let whiteout = sys::root::FileKind::CharDevice;
    assert!(!changes(&|| root
        .mknod(Path::new("w"), whiteout, 0, 0)
        .unwrap()));
    assert!(changes(&|| root
        .mknod(Path::new("n"), whiteout, 0o600, 0x103)
        .unwrap()));
}

#[test]
fn a_tree_after_changes_is_as_if_looked_at_anew() {
    let (dir, root) = tree("a=1 d/ d/b=2 d/e/ d/e/c=3 l>a");
    let (_, mut tree) = Tree::new().after(&root, []).unwrap();
    let at = |path: &str| dir.path().join(path);
    /// What it is called, which paths it changes, and how.
    type Step<'a> = (&'a str, &'a [&'a str], &'a dyn Fn());
    let steps: [Step<'_>; 10] = [
        ("nothing", &[], &|| {}),
        ("content", &["d/e/c"], &|| {
            fs::write(at("d/e/c"), "4").unwrap();
        }),
        ("new", &["d/a"], &|| fs::write(at("d/a"), "5").unwrap()),
        ("new in new", &["n", "n/m", "n/m/f"], &|| {
            fs::create_dir_all(at("n/m")).unwrap();
            fs::write(at("n/m/f"), "5").unwrap();
        }),
        ("mode", &["d/e"], &|| {
            root.chmod(Path::new("d/e"), 0o700).unwrap();
        }),
        ("gone", &["d/e"], &|| {
            fs::remove_dir_all(at("d/e")).unwrap();
        }),
        ("file to directory", &["d/b"], &|| {
            fs::remove_file(at("d/b")).unwrap();
            fs::create_dir(at("d/b")).unwrap();
        }),
        ("directory to file", &["d/b"], &|| {
            fs::remove_dir(at("d/b")).unwrap();
            fs::write(at("d/b"), "6").unwrap();
        }),
        ("link", &["l"], &|| {
            fs::remove_file(at("l")).unwrap();
            symlink("d", at("l")).unwrap();
        }),
        ("rename", &["d", "x", "x/a", "x/b"], &|| {
            fs::rename(at("d"), at("x")).unwrap();
        }),
    ];
    for (what, changed, change) in steps {
        change();
        let (digest, after) = tree
            .after(&root, changed.iter().map(|path| Path::new(*path)))
            .unwrap();
        let fresh = Tree::new().select_all(&root, &[]).unwrap();
        assert_eq!(digest, fresh, "{what}");
        tree = after;
        for select in ["", "d", "a", "d*", "d/b"] {
            let select = selector(&format!("{select} wild"));
            let fresh = Tree::new().select(&root, &select).unwrap();
            let known = tree.select(&root, &select).unwrap();
            assert_eq!(known, fresh, "{what} {select:?}");
        }
    }
}

#[test]
fn unchanged_files_are_not_read_again() {
    let (dir, root) = tree("d/ d/f=content d/g=more e/ e/f=other");
    let (before, tree) = Tree::new().after(&root, []).unwrap();
    let count = digested();
    assert_eq!(tree.after(&root, []).unwrap().0, before);
    assert_eq!(digested(), count);
    fs::write(dir.path().join("d/f"), "CONTENT").unwrap();
    let (after, _) = tree.after(&root, [Path::new("d/f")]).unwrap();
    assert_ne!(after, before);
    assert_eq!(digested(), count + 1);
    // What was known before stays.
    assert_eq!(tree.select_all(&root, &[]).unwrap(), before);
    assert_eq!(digested(), count + 1);
}

/// How many files this thread has digested; so few are not given to others.
fn digested() -> usize {
    header::DIGESTED.with(std::cell::Cell::get)
}

#[test]
fn selections_together_are_one_digest() {
    let (_dir, root) = tree(BASIC);
    let tree = Tree::new();
    let one = |select: &str| tree.select(&root, &selector(select)).unwrap().to_string();
    let both = tree
        .select_all(&root, &[selector("foo"), selector("d0")])
        .unwrap();
    assert_eq!(both, Digest::of(format!("{}\0{}", one("foo"), one("d0"))));
    assert_eq!(tree.select_all(&root, &[]).unwrap(), Digest::of(one("/")));
}

#[test]
fn a_wildcard_alone_follows_links_as_any_other_does() {
    let words = "x=1 lx>nosuch";
    check(words, "* wild follow", "\"/lx\": not found");
    check(
        "x=1 y=2",
        "* wild",
        &digest("x=1 y=2", "[xy] wild")["sha256:".len()..],
    );
}
