//! Texts for people that come from elsewhere.

/// The most bytes of a text for people, such as the reason of a no.
///
/// A reason is stored with the transaction and sent on to everyone who waits for it: without a bound of its own, one as
/// large as a frame would not fit into the frames that carry it on.
pub const TEXT_BYTES_MAX: usize = 4_096;

/// A text as one line of at most [`TEXT_BYTES_MAX`] bytes.
///
/// Control characters become spaces: a zero byte is a text that Postgres refuses, so that one such reason would keep its
/// whole batch out of the log; an escape sequence would reach the operator's terminal. A text that is fit already is
/// returned as it is.
pub fn one_line(text: String) -> String {
    let text = cut(text, TEXT_BYTES_MAX);
    if text.contains(char::is_control) { text.replace(char::is_control, " ") } else { text }
}

const ELLIPSIS: char = '…';

/// A text of at most so many bytes, which are more than those of the ellipsis that marks the cut.
pub(crate) fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max - ELLIPSIS.len_utf8()));
        text.push(ELLIPSIS);
    }
    text
}

/// A foreign text, quoted and cut, to be shown in an error.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push(ELLIPSIS);
    }
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fit_text_stays_as_it_is() {
        let text = String::from("sold out: 3 < 5, désolé");
        let address = text.as_ptr();
        let kept = one_line(text);
        assert_eq!(kept, "sold out: 3 < 5, désolé");
        assert_eq!(kept.as_ptr(), address);
    }

    #[test]
    fn control_characters_become_spaces() {
        assert_eq!(one_line("a\0b\u{1b}[2Jc\r\nd\u{9b}e\u{7f}".into()), "a b [2Jc  d e ");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        for length in TEXT_BYTES_MAX - 3..TEXT_BYTES_MAX + 9 {
            let text = one_line("é".repeat(length / 2) + &"x".repeat(length % 2));
            assert!(text.len() <= TEXT_BYTES_MAX, "{}", text.len());
            assert_eq!(text.ends_with(ELLIPSIS), length > TEXT_BYTES_MAX);
        }
    }

    #[test]
    fn what_is_shown_is_short_and_escaped() {
        assert_eq!(quoted("a\n"), r#""a\n""#);
        assert_eq!(quoted(&"x".repeat(100)), format!("\"{}…\"", "x".repeat(80)));
    }
}
