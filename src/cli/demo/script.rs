//! The script of the demo: a text that describes each scene while it is published.

/// An action on the viewers at a point in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cue {
    /// B's connection is closed.
    Cut,
    /// C arrives and asks for the beginning.
    JoinEarliest,
    /// D arrives and reads from the tail.
    JoinTail,
    /// B reconnects.
    Resume,
}

/// A token of the text and the cue after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScriptToken {
    pub(super) text: String,
    pub(super) cue: Option<Cue>,
}

/// Returns the tokens of the script, in order.
pub(super) fn tokens() -> Vec<ScriptToken> {
    let mut all = Vec::new();
    for (passage, cue) in PLAY {
        let mut tokens = tokenise(passage);
        if let Some(last) = tokens.last_mut() {
            last.cue = *cue;
        }
        all.append(&mut tokens);
    }
    all
}

/// The passages, each with the cue at its end.
const PLAY: &[(&str, Option<Cue>)] = &[
    (
        "Every word you read here is a token or two, every token is an event, and all of them \
         are in one channel. The publisher holds one request open and writes; it does not know \
         who reads. The hub gives each event an id, renders it once, and hands the same bytes \
         to everyone.\nViewer B is on a train, and here comes the tunnel:",
        Some(Cue::Cut),
    ),
    (
        " its connection is gone. The story does not wait. A, who was here from the start, \
         reads on.",
        None,
    ),
    (" C arrives only now", Some(Cue::JoinEarliest)),
    (
        " and asks for the earliest event: the past comes in one breath, and C is live before \
         this sentence ends.",
        None,
    ),
    (" D joins as well,", Some(Cue::JoinTail)),
    (
        " but only for what comes next: whoever asks for the tail is not told the past.\n\
         The train leaves the tunnel.",
        Some(Cue::Resume),
    ),
    (
        " B names the last id it saw and is given everything after it, no event twice and \
         none missing. Nobody waited for anybody. Live is replay that has caught up: that is \
         the whole idea.",
        None,
    ),
];

/// Cuts a text similarly to a language model: words with the space before them, long words in two,
/// punctuation by itself. The pieces put together are the text.
fn tokenise(text: &str) -> Vec<ScriptToken> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (token, tail) = rest.split_at(token_length(rest));
        tokens.push(ScriptToken { text: token.into(), cue: None });
        rest = tail;
    }
    tokens
}

/// Returns the bytes of the token at the beginning of this ASCII text.
fn token_length(text: &str) -> usize {
    const LONG_WORD: usize = 7;
    let space = usize::from(text.starts_with(' '));
    let word = text.bytes().skip(space).take_while(u8::is_ascii_alphanumeric).count();
    let piece = match word {
        0 => 1,
        1..=LONG_WORD => word,
        _ => word.div_ceil(2),
    };
    (space + piece).min(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<String> {
        tokenise(text).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn the_tokens_put_together_are_the_text() {
        let played: String = tokens().into_iter().map(|token| token.text).collect();
        let written: String = PLAY.iter().map(|(passage, _)| *passage).collect();
        assert_eq!(played, written);
        assert!(written.is_ascii(), "tokens are counted in bytes");
    }

    #[test]
    fn words_keep_their_space_and_long_ones_are_cut() {
        let text = "The connection is gone.\nB reads";
        assert_eq!(
            pieces(text),
            ["The", " conne", "ction", " is", " gone", ".", "\n", "B", " reads"]
        );
    }

    #[test]
    fn every_cue_is_played_once_and_in_this_order() {
        let cues: Vec<_> = tokens().into_iter().filter_map(|token| token.cue).collect();
        assert_eq!(cues, [Cue::Cut, Cue::JoinEarliest, Cue::JoinTail, Cue::Resume]);
    }
}
