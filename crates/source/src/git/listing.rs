//! What `git ls-remote` says.

/// Refs of a repository, with the objects that they name.
pub(super) struct Listing<'a> {
    refs: Vec<(&'a str, &'a str)>,
}

/// A ref that was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its full name.
    pub(super) name: String,
    /// The object that it names.
    pub(super) object: String,
    /// The commit: the object, or what the tag is for.
    pub(super) commit: String,
}

impl<'a> Listing<'a> {
    /// Reads lines of an object's id, a tab, and a ref.
    pub(super) fn of(text: &'a str) -> Listing<'a> {
        let refs = text.lines().filter_map(|line| line.split_once('\t'));
        Listing {
            refs: refs.collect(),
        }
    }

    /// The ref that a short name means: in full, a tag, a branch.
    pub(super) fn find(&self, name: &str) -> Option<Found> {
        let prefixes = ["", "refs/tags/", "refs/heads/", "refs/"];
        prefixes
            .iter()
            .find_map(|prefix| self.exactly(&format!("{prefix}{name}")))
    }

    /// The default branch.
    pub(super) fn head(&self) -> Option<Found> {
        let symbolic = self.refs.iter().find_map(|(target, name)| {
            let target = target.strip_prefix("ref: ")?;
            (*name == "HEAD").then_some(target)
        });
        let head = self.exactly("HEAD")?;
        Some(Found {
            name: symbolic.map_or(head.name, str::to_owned),
            ..head
        })
    }

    fn exactly(&self, name: &str) -> Option<Found> {
        let object = self.object(name)?;
        let commit = self.object(&format!("{name}^{{}}")).unwrap_or(object);
        Some(Found {
            name: name.to_owned(),
            object: object.to_owned(),
            commit: commit.to_owned(),
        })
    }

    fn object(&self, name: &str) -> Option<&'a str> {
        let mut refs = self.refs.iter();
        let found = refs.find(|(object, found)| *found == name && super::is_object(object));
        found.map(|(object, _)| *object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(40)
    }

    #[test]
    fn a_tag_goes_before_a_branch_and_what_only_ends_like_it_is_not_it() {
        let text = format!(
            "{}\trefs/heads/x/main\n{}\trefs/heads/main\n{}\trefs/tags/main\n{}\trefs/tags/main^{{}}\n",
            id('1'),
            id('2'),
            id('3'),
            id('4')
        );
        let listing = Listing::of(&text);
        let found = listing.find("main").unwrap();
        assert_eq!(found.name, "refs/tags/main");
        assert_eq!((found.object, found.commit), (id('3'), id('4')));
        let found = listing.find("refs/heads/main").unwrap();
        assert_eq!((found.object, found.commit), (id('2'), id('2')));
        assert_eq!(listing.find("heads/main").unwrap().object, id('2'));
        assert_eq!(listing.find("ain"), None);
    }

    #[test]
    fn the_default_branch_is_what_head_is() {
        let text = format!("ref: refs/heads/trunk\tHEAD\n{}\tHEAD\n", id('a'));
        let found = Listing::of(&text).head().unwrap();
        assert_eq!(
            (found.name.as_str(), found.commit),
            ("refs/heads/trunk", id('a'))
        );
        assert_eq!(Listing::of("").head(), None);
    }
}
