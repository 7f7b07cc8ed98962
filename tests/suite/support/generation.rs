//! Generations as their providers stream them, and a viewer that folds them.
//!
//! An oracle: the chunks follow the providers' published schemas, and nothing here is shared with
//! `src/generation`, neither the parser of a format nor the encoder.

use std::ops::Range;

use serde_json::Value;

use super::{Piece, Publisher, Response, SseClient, SseEvent, TestHub, Wire, offset, within};

/// The format of a channel's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    OpenaiChat,
    OpenaiResponses,
    Anthropic,
    Gemini,
    Ollama,
    AiSdk,
}

impl Format {
    pub(crate) const ALL: [Self; 7] = [
        Self::Text,
        Self::OpenaiChat,
        Self::OpenaiResponses,
        Self::Anthropic,
        Self::Gemini,
        Self::Ollama,
        Self::AiSdk,
    ];

    /// Returns the name in `?format=` and in the hub's own documents.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::OpenaiChat => "openai-chat",
            Self::OpenaiResponses => "openai-responses",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Ollama => "ollama",
            Self::AiSdk => "ai-sdk",
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Ollama => "application/x-ndjson",
            _ => "text/event-stream",
        }
    }

    /// Encodes the chunk in this provider's wire format.
    pub(crate) fn wire(self, chunk: &Chunk) -> String {
        if self == Self::Ollama {
            return format!("{}\n", chunk.data);
        }
        let end = if self == Self::Gemini { "\r\n" } else { "\n" };
        let event = chunk.event.map(|event| format!("event: {event}{end}")).unwrap_or_default();
        let data: String =
            chunk.data.split('\n').map(|line| format!("data: {line}{end}")).collect();
        format!("{event}{data}{end}")
    }
}

/// An event of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) event: Option<&'static str>,
    pub(crate) data: String,
}

/// A part of an answer, in the pieces of the model.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    Text(Vec<String>),
    Reasoning(Vec<String>),
    /// The arguments of a call of `get_weather`, together a JSON object.
    Call(Vec<String>),
}

/// The text of each kind that a viewer has received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) text: String,
    pub(crate) reasoning: String,
    pub(crate) arguments: String,
}

impl Content {
    fn lengths(&self) -> [usize; 3] {
        [self.text.len(), self.reasoning.len(), self.arguments.len()]
    }

    fn up_to(&self, lengths: [usize; 3]) -> Self {
        Self {
            text: self.text[..lengths[0]].to_owned(),
            reasoning: self.reasoning[..lengths[1]].to_owned(),
            arguments: self.arguments[..lengths[2]].to_owned(),
        }
    }

    /// Adds the text in the data of one event.
    fn add(&mut self, format: Format, data: &str) {
        if format == Format::Text {
            self.text.push_str(if data == "[DONE]" { "" } else { data });
            return;
        }
        let Ok(json) = serde_json::from_str::<Value>(data) else { return };
        let text = |at: &str| json.pointer(at).and_then(Value::as_str).unwrap_or_default();
        match format {
            Format::Text => unreachable!(),
            Format::OpenaiChat => {
                self.text += text("/choices/0/delta/content");
                self.reasoning += text("/choices/0/delta/reasoning_content");
                self.arguments += text("/choices/0/delta/tool_calls/0/function/arguments");
            }
            Format::OpenaiResponses => match text("/type") {
                "response.output_text.delta" => self.text += text("/delta"),
                "response.reasoning_summary_text.delta" => self.reasoning += text("/delta"),
                "response.function_call_arguments.delta" => self.arguments += text("/delta"),
                _ => {}
            },
            Format::Anthropic => {
                if text("/type") == "content_block_delta" {
                    self.text += text("/delta/text");
                    self.reasoning += text("/delta/thinking");
                    self.arguments += text("/delta/partial_json");
                }
            }
            Format::Gemini => {
                let parts = json.pointer("/candidates/0/content/parts").and_then(Value::as_array);
                for part in parts.into_iter().flatten() {
                    let text = part["text"].as_str().unwrap_or_default();
                    let thought = part["thought"].as_bool().unwrap_or_default();
                    *(if thought { &mut self.reasoning } else { &mut self.text }) += text;
                    if let Some(arguments) = part.pointer("/functionCall/args") {
                        self.arguments += &arguments.to_string();
                    }
                }
            }
            Format::Ollama => {
                self.text += text("/message/content");
                self.reasoning += text("/message/thinking");
                if let Some(arguments) = json.pointer("/message/tool_calls/0/function/arguments") {
                    self.arguments += &arguments.to_string();
                }
            }
            Format::AiSdk => match text("/type") {
                "text-delta" => self.text += text("/delta"),
                "reasoning-delta" => self.reasoning += text("/delta"),
                "tool-input-delta" => self.arguments += text("/inputTextDelta"),
                _ => {}
            },
        }
    }

    /// Parses a snapshot.
    #[track_caller]
    pub(crate) fn of_snapshot(snapshot: &Value) -> Self {
        let mut content = Self::default();
        for part in snapshot["parts"].as_array().unwrap_or_else(|| panic!("no parts: {snapshot}")) {
            let text = |key: &str| part[key].as_str().unwrap_or_else(|| panic!("{key} in {part}"));
            match text("type") {
                "text" => content.text += text("text"),
                "reasoning" => content.reasoning += text("text"),
                "tool_call" => {
                    assert!(!text("name").is_empty(), "{part}");
                    content.arguments += text("arguments");
                }
                other => panic!("a part of an unknown kind {other}: {snapshot}"),
            }
        }
        assert_eq!(snapshot["text"], content.text, "the text is that of the parts");
        content
    }
}

/// A whole generation of one format.
#[derive(Clone, Debug)]
pub(crate) struct Generation {
    pub(crate) format: Format,
    pub(crate) chunks: Vec<Chunk>,
    /// The number of chunks of the end mark and what follows it.
    pub(crate) marks: usize,
    /// Its whole text, of each kind.
    pub(crate) content: Content,
}

impl Generation {
    /// A generation of these tokens, as one text.
    pub(crate) fn of<T: ToString>(format: Format, tokens: impl IntoIterator<Item = T>) -> Self {
        let tokens = tokens.into_iter().map(|token| token.to_string()).collect();
        Self::with(format, &[Part::Text(tokens)])
    }

    /// A generation of this many different tokens.
    pub(crate) fn numbered(format: Format, tokens: usize) -> Self {
        Self::of(format, (0..tokens).map(|n| format!(" tok{n}")))
    }

    /// A generation with every kind of part of the format.
    pub(crate) fn rich(format: Format) -> Self {
        let pieces = |text: &str| text.split_inclusive(' ').map(str::to_owned).collect();
        let mut parts = vec![
            Part::Reasoning(pieces("The user wants \"rain\" or 🎺 sun. ")),
            Part::Text(pieces("It rains in Ulm,\n\nnaïvely: \\o/ 雨 ")),
            Part::Call(pieces("{\"city\":\"Neu Ulm am See\"}")),
        ];
        if format == Format::Text {
            parts.retain(|part| matches!(part, Part::Text(_)));
        }
        Self::with(format, &parts)
    }

    /// A generation of these parts, one after the other.
    pub(crate) fn with(format: Format, parts: &[Part]) -> Self {
        let mut script = Script { format, chunks: Vec::new(), part: 0 };
        script.open();
        for part in parts {
            match part {
                Part::Text(pieces) => script.text(pieces),
                Part::Reasoning(pieces) => script.reasoning(pieces),
                Part::Call(pieces) => script.call(pieces),
            }
            script.part += 1;
        }
        let marks = script.close();
        let mut content = Content::default();
        for Chunk { data, .. } in &script.chunks {
            let text = format == Format::Text || data == "[DONE]";
            assert!(text || serde_json::from_str::<Value>(data).is_ok(), "not JSON: {data}");
            content.add(format, data);
        }
        let told_by = |wanted: fn(&Part) -> Option<&Vec<String>>| -> String {
            parts.iter().filter_map(wanted).flatten().map(String::as_str).collect()
        };
        let whole = Content {
            text: told_by(|part| if let Part::Text(pieces) = part { Some(pieces) } else { None }),
            reasoning: told_by(|part| {
                if let Part::Reasoning(pieces) = part { Some(pieces) } else { None }
            }),
            arguments: told_by(
                |part| if let Part::Call(pieces) = part { Some(pieces) } else { None },
            ),
        };
        if format != Format::Text {
            assert_eq!(content, whole, "the oracle reads what the oracle writes");
        }
        Self { format, chunks: script.chunks, marks, content }
    }

    /// Returns the index of the end mark.
    pub(crate) fn mark(&self) -> usize {
        self.chunks.len() - self.marks
    }

    /// Encodes a range of chunks.
    pub(crate) fn wire(&self, range: Range<usize>) -> String {
        self.chunks[range].iter().map(|chunk| self.format.wire(chunk)).collect()
    }

    /// Encodes all chunks.
    pub(crate) fn whole(&self) -> String {
        self.wire(0..self.chunks.len())
    }

    /// Returns the index of the chunk in which the model stops, which is an end mark if nothing
    /// follows.
    pub(crate) fn stop(&self) -> usize {
        let before = match self.format {
            Format::OpenaiChat => 2,
            Format::Anthropic => 1,
            _ => 0,
        };
        self.mark() - before
    }

    /// Encodes all chunks before the model stops.
    pub(crate) fn truncated(&self) -> String {
        self.wire(0..self.stop())
    }

    /// Begins to publish into the channel, which closes at the end mark.
    pub(crate) async fn producer(&self, hub: &TestHub, channel: &str) -> Publisher {
        let to = format!("/v1/channels/{channel}?close=auto");
        Publisher::begin(hub, &to, self.format.content_type(), &[]).await
    }

    /// Publishes this body into the channel, which closes at an end mark.
    pub(crate) async fn post(&self, hub: &TestHub, channel: &str, body: &str) -> Response {
        let to = format!("/v1/channels/{channel}?close=auto");
        hub.post(&to, self.format.content_type(), body).await
    }

    /// Publishes the whole generation.
    pub(crate) async fn publish(&self, hub: &TestHub, channel: &str) -> Value {
        let receipt = self.post(hub, channel, &self.whole()).await.ok().json();
        assert_eq!(receipt["state"], "complete", "{receipt}");
        receipt
    }
}

/// Replaces `$0`, `$1`, … with the values.
fn fill(template: &str, values: &[&str]) -> String {
    let mut pieces = template.split('$');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (place, rest) = piece.split_at(1);
        text += values[place.parse::<usize>().expect("a place")];
        text += rest;
    }
    text
}

/// Encodes the text as a JSON string.
fn quote(text: &str) -> String {
    Value::from(text).to_string()
}

/// A generation being written.
struct Script {
    format: Format,
    chunks: Vec<Chunk>,
    part: usize,
}

impl Script {
    /// Adds an event; in `template`, its data, `#` is replaced with the number of the event and `@`
    /// with that of the part.
    fn add(&mut self, event: Option<&'static str>, template: &str, values: &[&str]) {
        let template = template
            .replace('#', &self.chunks.len().to_string())
            .replace('@', &self.part.to_string());
        self.chunks.push(Chunk { event, data: fill(&template, values) });
    }

    /// Adds an event with its type in its data, and in some formats also on the wire.
    fn typed(&mut self, template: &str, values: &[&str]) {
        let rest = template.strip_prefix("{\"type\":\"").expect("the type comes first");
        let name = rest.split('"').next().unwrap_or_default();
        let event = TYPES.iter().find(|known| **known == name).copied();
        let event = event.filter(|_| self.format != Format::AiSdk);
        self.add(event, template, values);
    }

    fn chat(&mut self, delta: &str, finish: &str) {
        self.add(
            None,
            "{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\
             \"object\":\"chat.completion.chunk\",\"created\":1741569952,\
             \"model\":\"gpt-4.1-mini\",\"service_tier\":\"default\",\
             \"system_fingerprint\":\"fp_b5c8d24e1f\",\"choices\":[{\"index\":0,\"delta\":$0,\
             \"logprobs\":null,\"finish_reason\":$1}],\"usage\":null}",
            &[delta, finish],
        );
    }

    fn gemini(&mut self, part: &str, finish: &str) {
        self.add(
            None,
            "{\"candidates\": [{\"content\": {\"parts\": [$0],\"role\": \"model\"},$1\
             \"index\": 0}],\"usageMetadata\": {\"promptTokenCount\": 8,\
             \"candidatesTokenCount\": #,\"totalTokenCount\": 1#},\
             \"modelVersion\": \"gemini-2.5-flash\",\"responseId\": \"5uGPaM2mOqqm1\"}",
            &[part, finish],
        );
    }

    fn ollama(&mut self, message: &str) {
        self.add(
            None,
            "{\"model\":\"llama3.2\",\"created_at\":\"2026-08-04T08:52:19.38540#Z\",\
             \"message\":{\"role\":\"assistant\",$0},\"done\":false}",
            &[message],
        );
    }

    fn open(&mut self) {
        match self.format {
            Format::Text | Format::Gemini | Format::Ollama => {}
            Format::OpenaiChat => {
                self.chat("{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null}", "null");
            }
            Format::OpenaiResponses => {
                for event in ["response.created", "response.in_progress"] {
                    let template = "{\"type\":\"$0\",\"sequence_number\":#,\"response\":{\
                         \"id\":\"resp_67c9fdcecf488190\",\"object\":\"response\",\
                         \"created_at\":1741290958,\"status\":\"in_progress\",\"error\":null,\
                         \"model\":\"gpt-4.1\",\"output\":[],\"usage\":null}}";
                    self.add(Some(event), template, &[event]);
                }
            }
            Format::Anthropic => self.typed(
                "{\"type\":\"message_start\",\"message\":{\"id\":\"msg_01XFDUDYJgAACzvnptvVoYEL\",\
                 \"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-sonnet-4-5\",\
                 \"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\
                 \"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}",
                &[],
            ),
            Format::AiSdk => {
                self.typed("{\"type\":\"start\",\"messageId\":\"msg-1\"}", &[]);
                self.typed("{\"type\":\"start-step\"}", &[]);
            }
        }
    }

    fn text(&mut self, pieces: &[String]) {
        match self.format {
            Format::OpenaiResponses => {
                self.typed(
                    "{\"type\":\"response.output_item.added\",\"sequence_number\":#,\
                     \"output_index\":@,\"item\":{\"id\":\"msg_@\",\"type\":\"message\",\
                     \"status\":\"in_progress\",\"content\":[],\"role\":\"assistant\"}}",
                    &[],
                );
                self.typed(
                    "{\"type\":\"response.content_part.added\",\"sequence_number\":#,\
                     \"item_id\":\"msg_@\",\"output_index\":@,\"content_index\":0,\
                     \"part\":{\"type\":\"output_text\",\"annotations\":[],\"text\":\"\"}}",
                    &[],
                );
            }
            Format::Anthropic => {
                self.typed(
                    "{\"type\":\"content_block_start\",\"index\":@,\
                     \"content_block\":{\"type\":\"text\",\"text\":\"\"}}",
                    &[],
                );
                self.typed("{\"type\":\"ping\"}", &[]);
            }
            Format::AiSdk => self.typed("{\"type\":\"text-start\",\"id\":\"text-@\"}", &[]),
            _ => {}
        }
        for piece in pieces {
            self.text_piece(piece);
        }
        match self.format {
            Format::OpenaiResponses => {
                let whole = quote(&pieces.concat());
                self.typed(
                    "{\"type\":\"response.output_text.done\",\"sequence_number\":#,\
                     \"item_id\":\"msg_@\",\"output_index\":@,\"content_index\":0,\"text\":$0}",
                    &[&whole],
                );
                self.typed(
                    "{\"type\":\"response.output_item.done\",\"sequence_number\":#,\
                     \"output_index\":@,\"item\":{\"id\":\"msg_@\",\"type\":\"message\",\
                     \"status\":\"completed\",\"role\":\"assistant\",\"content\":[\
                     {\"type\":\"output_text\",\"annotations\":[],\"text\":$0}]}}",
                    &[&whole],
                );
            }
            Format::Anthropic => {
                self.typed("{\"type\":\"content_block_stop\",\"index\":@}", &[]);
            }
            Format::AiSdk => self.typed("{\"type\":\"text-end\",\"id\":\"text-@\"}", &[]),
            _ => {}
        }
    }

    fn text_piece(&mut self, piece: &str) {
        let quoted = quote(piece);
        match self.format {
            Format::Text => self.chunks.push(Chunk { event: None, data: piece.to_owned() }),
            Format::OpenaiChat => self.chat(&fill("{\"content\":$0}", &[&quoted]), "null"),
            Format::OpenaiResponses => self.typed(
                "{\"type\":\"response.output_text.delta\",\"sequence_number\":#,\
                 \"item_id\":\"msg_@\",\"output_index\":@,\"content_index\":0,\"delta\":$0,\
                 \"logprobs\":[],\"obfuscation\":\"aNq0#\"}",
                &[&quoted],
            ),
            Format::Anthropic => self.typed(
                "{\"type\":\"content_block_delta\",\"index\":@,\
                 \"delta\":{\"type\":\"text_delta\",\"text\":$0}}",
                &[&quoted],
            ),
            Format::Gemini => self.gemini(&fill("{\"text\": $0}", &[&quoted]), ""),
            Format::Ollama => self.ollama(&fill("\"content\":$0", &[&quoted])),
            Format::AiSdk => {
                self.typed("{\"type\":\"text-delta\",\"id\":\"text-@\",\"delta\":$0}", &[&quoted]);
            }
        }
    }

    fn reasoning(&mut self, pieces: &[String]) {
        match self.format {
            Format::OpenaiResponses => self.typed(
                "{\"type\":\"response.output_item.added\",\"sequence_number\":#,\
                 \"output_index\":@,\"item\":{\"id\":\"rs_@\",\"type\":\"reasoning\",\
                 \"summary\":[]}}",
                &[],
            ),
            Format::Anthropic => self.typed(
                "{\"type\":\"content_block_start\",\"index\":@,\
                 \"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}",
                &[],
            ),
            Format::AiSdk => self.typed("{\"type\":\"reasoning-start\",\"id\":\"rs-@\"}", &[]),
            _ => {}
        }
        for piece in pieces {
            let quoted = quote(piece);
            match self.format {
                Format::Text => {}
                Format::OpenaiChat => {
                    self.chat(&fill("{\"reasoning_content\":$0}", &[&quoted]), "null");
                }
                Format::OpenaiResponses => self.typed(
                    "{\"type\":\"response.reasoning_summary_text.delta\",\"sequence_number\":#,\
                     \"item_id\":\"rs_@\",\"output_index\":@,\"summary_index\":0,\"delta\":$0}",
                    &[&quoted],
                ),
                Format::Anthropic => self.typed(
                    "{\"type\":\"content_block_delta\",\"index\":@,\
                     \"delta\":{\"type\":\"thinking_delta\",\"thinking\":$0}}",
                    &[&quoted],
                ),
                Format::Gemini => {
                    self.gemini(&fill("{\"text\": $0,\"thought\": true}", &[&quoted]), "");
                }
                Format::Ollama => {
                    self.ollama(&fill("\"content\":\"\",\"thinking\":$0", &[&quoted]));
                }
                Format::AiSdk => self.typed(
                    "{\"type\":\"reasoning-delta\",\"id\":\"rs-@\",\"delta\":$0}",
                    &[&quoted],
                ),
            }
        }
        match self.format {
            Format::Anthropic => {
                self.typed(
                    "{\"type\":\"content_block_delta\",\"index\":@,\
                     \"delta\":{\"type\":\"signature_delta\",\"signature\":\"EqQBCgIYAhIM1gbcDa\"}}",
                    &[],
                );
                self.typed("{\"type\":\"content_block_stop\",\"index\":@}", &[]);
            }
            Format::AiSdk => self.typed("{\"type\":\"reasoning-end\",\"id\":\"rs-@\"}", &[]),
            _ => {}
        }
    }

    fn call(&mut self, pieces: &[String]) {
        let whole = pieces.concat();
        self.call_opens(&whole);
        for piece in pieces {
            self.call_piece(piece);
        }
        self.call_closes(&whole);
    }

    fn call_opens(&mut self, whole: &str) {
        match self.format {
            Format::Text => {}
            Format::OpenaiChat => self.chat(
                "{\"tool_calls\":[{\"index\":0,\"id\":\"call_DdmO9pD3xa9XTPNJ32zg2hcA\",\
                 \"type\":\"function\",\"function\":{\"name\":\"get_weather\",\
                 \"arguments\":\"\"}}]}",
                "null",
            ),
            Format::OpenaiResponses => self.typed(
                "{\"type\":\"response.output_item.added\",\"sequence_number\":#,\
                 \"output_index\":@,\"item\":{\"id\":\"fc_@\",\"type\":\"function_call\",\
                 \"status\":\"in_progress\",\"arguments\":\"\",\"call_id\":\"call_DdmO9pD3\",\
                 \"name\":\"get_weather\"}}",
                &[],
            ),
            Format::Anthropic => self.typed(
                "{\"type\":\"content_block_start\",\"index\":@,\"content_block\":{\
                 \"type\":\"tool_use\",\"id\":\"toolu_01T1x1fJ34qAma2tNTrN7Up6\",\
                 \"name\":\"get_weather\",\"input\":{}}}",
                &[],
            ),
            Format::Gemini => self.gemini(
                &fill("{\"functionCall\": {\"name\": \"get_weather\",\"args\": $0}}", &[whole]),
                "",
            ),
            Format::Ollama => self.ollama(&fill(
                "\"content\":\"\",\"tool_calls\":[{\"function\":{\"name\":\"get_weather\",\
                 \"arguments\":$0}}]",
                &[whole],
            )),
            Format::AiSdk => self.typed(
                "{\"type\":\"tool-input-start\",\"toolCallId\":\"call_@\",\
                 \"toolName\":\"get_weather\"}",
                &[],
            ),
        }
    }

    fn call_piece(&mut self, piece: &str) {
        let quoted = quote(piece);
        match self.format {
            Format::OpenaiChat => self.chat(
                &fill(
                    "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":$0}}]}",
                    &[&quoted],
                ),
                "null",
            ),
            Format::OpenaiResponses => self.typed(
                "{\"type\":\"response.function_call_arguments.delta\",\
                 \"sequence_number\":#,\"item_id\":\"fc_@\",\"output_index\":@,\"delta\":$0}",
                &[&quoted],
            ),
            Format::Anthropic => self.typed(
                "{\"type\":\"content_block_delta\",\"index\":@,\
                 \"delta\":{\"type\":\"input_json_delta\",\"partial_json\":$0}}",
                &[&quoted],
            ),
            Format::AiSdk => self.typed(
                "{\"type\":\"tool-input-delta\",\"toolCallId\":\"call_@\",\
                 \"inputTextDelta\":$0}",
                &[&quoted],
            ),
            Format::Text | Format::Gemini | Format::Ollama => {}
        }
    }

    fn call_closes(&mut self, whole: &str) {
        match self.format {
            Format::OpenaiResponses => self.typed(
                "{\"type\":\"response.function_call_arguments.done\",\"sequence_number\":#,\
                 \"item_id\":\"fc_@\",\"output_index\":@,\"arguments\":$0}",
                &[&quote(whole)],
            ),
            Format::Anthropic => {
                self.typed("{\"type\":\"content_block_stop\",\"index\":@}", &[]);
            }
            Format::AiSdk => self.typed(
                "{\"type\":\"tool-input-available\",\"toolCallId\":\"call_@\",\
                 \"toolName\":\"get_weather\",\"input\":$0}",
                &[whole],
            ),
            _ => {}
        }
    }

    /// Adds the end; returns the number of chunks of the end mark and what follows it.
    fn close(&mut self) -> usize {
        match self.format {
            Format::Text => self.add(None, "[DONE]", &[]),
            Format::OpenaiChat => {
                self.chat("{}", "\"stop\"");
                self.add(
                    None,
                    "{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\
                     \"object\":\"chat.completion.chunk\",\"created\":1741569952,\
                     \"model\":\"gpt-4.1-mini\",\"service_tier\":\"default\",\
                     \"system_fingerprint\":\"fp_b5c8d24e1f\",\"choices\":[],\"usage\":{\
                     \"prompt_tokens\":9,\"completion_tokens\":10,\"total_tokens\":19}}",
                    &[],
                );
                self.add(None, "[DONE]", &[]);
            }
            Format::OpenaiResponses => self.typed(
                "{\"type\":\"response.completed\",\"sequence_number\":#,\"response\":{\
                 \"id\":\"resp_67c9fdcecf488190\",\"object\":\"response\",\
                 \"created_at\":1741290958,\"status\":\"completed\",\"error\":null,\
                 \"model\":\"gpt-4.1\",\"output\":[],\"usage\":{\"input_tokens\":37,\
                 \"output_tokens\":11,\"total_tokens\":48}}}",
                &[],
            ),
            Format::Anthropic => {
                self.typed(
                    "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\
                     \"stop_sequence\":null},\"usage\":{\"output_tokens\":15}}",
                    &[],
                );
                self.typed("{\"type\":\"message_stop\"}", &[]);
            }
            Format::Gemini => self.gemini("{\"text\": \"\"}", "\"finishReason\": \"STOP\","),
            Format::Ollama => self.add(
                None,
                "{\"model\":\"llama3.2\",\"created_at\":\"2026-08-04T08:52:19.38540#Z\",\
                 \"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done_reason\":\"stop\",\
                 \"done\":true,\"total_duration\":4883583458,\"load_duration\":1334875,\
                 \"prompt_eval_count\":26,\"prompt_eval_duration\":342546000,\
                 \"eval_count\":282,\"eval_duration\":4535599000}",
                &[],
            ),
            Format::AiSdk => {
                self.typed("{\"type\":\"finish-step\"}", &[]);
                self.typed("{\"type\":\"finish\"}", &[]);
                self.add(None, "[DONE]", &[]);
                return 2;
            }
        }
        1
    }
}

/// The event types that are both in the data and on the wire.
const TYPES: &[&str] = &[
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.output_item.done",
    "response.reasoning_summary_text.delta",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.completed",
    "message_start",
    "content_block_start",
    "ping",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
];

/// A subscriber of a generation, and the text that it has received.
#[derive(Debug)]
pub(crate) struct Viewer {
    format: Format,
    pub(crate) content: Content,
    /// The received events of the generation.
    pub(crate) seen: Vec<SseEvent>,
    pub(crate) snapshot: Option<Value>,
    /// The id of the snapshot.
    pub(crate) joined: Option<String>,
    /// The data of the hub's `fanfare.end`.
    pub(crate) end: Option<Value>,
}

impl Viewer {
    pub(crate) fn of(format: Format) -> Self {
        Self {
            format,
            content: Content::default(),
            seen: Vec::new(),
            snapshot: None,
            joined: None,
            end: None,
        }
    }

    /// Processes one event.
    #[track_caller]
    pub(crate) fn see(&mut self, event: &SseEvent) {
        assert_eq!(self.end, None, "nothing comes behind the end: {event:?}");
        match event.event.as_deref() {
            Some("fanfare.snapshot") => {
                assert!(self.seen.is_empty() && self.snapshot.is_none(), "first, and once");
                let snapshot = event.json();
                assert_eq!(snapshot["format"], self.format.name(), "{snapshot}");
                self.content = Content::of_snapshot(&snapshot);
                self.snapshot = Some(snapshot);
                self.joined = Some(event.id().to_owned());
            }
            Some("fanfare.end") => self.end = Some(event.json()),
            Some(own) if own.starts_with("fanfare.") => panic!("not asked for: {event:?}"),
            _ => {
                self.content.add(self.format, &event.data);
                self.seen.push(event.clone());
            }
        }
    }

    /// Processes everything up to the end of the stream, which has to be that of the channel.
    pub(crate) async fn follow(&mut self, client: &mut SseClient) {
        for event in client.rest().await {
            self.see(&event);
        }
        assert!(self.end.is_some(), "the stream ended without an end: {:?}", client.head);
        client.assert_eof().await;
    }

    /// Processes events until `is` returns true.
    pub(crate) async fn until(&mut self, client: &mut SseClient, is: impl Fn(&Viewer) -> bool) {
        while !is(self) {
            self.see(&client.next().await);
        }
    }

    /// Watches the channel from its `from` to its end.
    pub(crate) async fn watch(hub: &TestHub, format: Format, to: &str) -> Self {
        let mut viewer = Self::of(format);
        let mut client = hub.stream(to, &[]).await;
        viewer.follow(&mut client).await;
        viewer
    }

    /// Asserts that it received the whole generation, and that it is complete.
    #[track_caller]
    pub(crate) fn assert_complete(&self, generation: &Generation) {
        assert_eq!(self.content, generation.content, "{}", generation.format.name());
        let end = self.end.as_ref().expect("an end");
        assert_eq!((&end["state"], &end["reason"]), (&Value::from("complete"), &Value::Null));
    }
}

/// The text of the channel up to each of its events, read without coalescing.
pub(crate) struct Ledger {
    whole: Content,
    places: Vec<(u64, [usize; 3])>,
}

impl Ledger {
    pub(crate) fn of(format: Format, events: &[SseEvent]) -> Self {
        let mut whole = Content::default();
        let mut places = Vec::new();
        for event in events {
            whole.add(format, &event.data);
            places.push((offset(event.id()), whole.lengths()));
        }
        Self { whole, places }
    }

    /// Reads the channel page by page; retention must have kept everything.
    pub(crate) async fn read(hub: &TestHub, format: Format, channel: &str) -> Self {
        let mut events = Vec::new();
        let mut to = "from=earliest".to_owned();
        loop {
            let page = hub.page(channel, &format!("{to}&limit=1000&coalesce=off")).await;
            let found = page_events(&page);
            if found.is_empty() {
                return Self::of(format, &events);
            }
            events.extend(found.into_iter().filter(|event| {
                !event.event.as_deref().unwrap_or_default().starts_with("fanfare.")
            }));
            to = format!("last_event_id={}", page["next"].as_str().expect("an id"));
        }
    }

    /// Returns the number of events up to and including this one.
    #[track_caller]
    pub(crate) fn count(&self, id: &str) -> usize {
        let place = self.places.binary_search_by_key(&offset(id), |(offset, _)| *offset);
        place.unwrap_or_else(|_| panic!("{id} is no event's id")) + 1
    }

    /// Returns the text up to and including this event.
    #[track_caller]
    pub(crate) fn up_to(&self, id: &str) -> Content {
        self.whole.up_to(self.places[self.count(id) - 1].1)
    }

    /// Returns the number of events.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Asserts that this snapshot equals the channel's text up to the event with its id.
    #[track_caller]
    pub(crate) fn assert_snapshot(&self, viewer: &Viewer) {
        let snapshot = viewer.snapshot.as_ref().expect("a snapshot");
        let id = viewer.joined.as_deref().expect("its id");
        assert_eq!(Content::of_snapshot(snapshot), self.up_to(id), "{snapshot}");
        assert_eq!(snapshot["events"], self.count(id), "{snapshot}");
    }

    /// Asserts that a viewer that received these events, merged or not, had at each id exactly the
    /// channel's text up to there; before them it had seen nothing, or everything up to `from`.
    #[track_caller]
    pub(crate) fn assert_follows(&self, format: Format, from: Option<&str>, seen: &[SseEvent]) {
        let mut content = from.map(|id| self.up_to(id)).unwrap_or_default();
        for event in seen {
            content.add(format, &event.data);
            assert_eq!(content, self.up_to(event.id()), "up to {event:?}");
        }
    }
}

/// Parses the events of a JSON page.
#[track_caller]
pub(crate) fn page_events(page: &Value) -> Vec<SseEvent> {
    let events = page["events"].as_array().unwrap_or_else(|| panic!("not a page: {page}"));
    events.iter().map(json_event).collect()
}

/// Parses an event of a page, or of an NDJSON stream.
#[track_caller]
pub(crate) fn json_event(event: &Value) -> SseEvent {
    SseEvent {
        id: event["id"].as_str().map(str::to_owned),
        event: event["event"].as_str().map(str::to_owned),
        data: event["data"].as_str().unwrap_or_else(|| panic!("no data: {event}")).to_owned(),
    }
}

/// Reads all events of an NDJSON stream, up to its end.
pub(crate) async fn lines(wire: &mut Wire) -> Vec<SseEvent> {
    let mut text = Vec::new();
    let reading = async {
        loop {
            match wire.piece().await {
                Piece::Data(bytes) => text.extend_from_slice(&bytes),
                Piece::End => break,
                Piece::Broken => panic!("broken: {}", String::from_utf8_lossy(&text)),
            }
        }
    };
    within("the end of the lines", reading).await;
    let text = String::from_utf8(text).expect("UTF-8");
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(|line| json_event(&serde_json::from_str(line).expect("a line of JSON"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_whole_and_in_part() {
        for format in Format::ALL {
            let generation = Generation::rich(format);
            let mut content = Content::default();
            for chunk in &generation.chunks[..generation.mark()] {
                content.add(format, &chunk.data);
            }
            assert_eq!(content, generation.content);
            assert!(content.text.starts_with("It rains in Ulm") && content.text.ends_with("雨 "));
            assert_eq!(content.arguments.is_empty(), format == Format::Text);
            assert_eq!(
                generation.truncated()
                    + &generation.wire(generation.stop()..generation.chunks.len()),
                generation.whole()
            );
        }
    }

    #[test]
    fn the_oracle_knows_a_merged_delta_from_its_neighbours() {
        let mut content = Content::default();
        content.add(
            Format::Anthropic,
            "{\"type\":\"content_block_delta\",\"index\":0,\
             \"delta\":{\"type\":\"text_delta\",\"text\":\"ab\"}}",
        );
        assert_eq!((content.text.as_str(), content.reasoning.as_str()), ("ab", ""));
    }
}
