//! `fanfare demo`: half a minute that shows what a hub does. The hub, the publisher and the viewers
//! are real; only the broken network is simulated.

mod cluster;
mod hub;
mod output;
mod screen;
mod script;
mod seat;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use fanfare_client::{Client, Close};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_stream::wrappers::ReceiverStream;

use self::hub::DemoHub;
use self::output::DemoOutput;
use self::script::Cue;
use self::seat::{Beat, DemoSeat, Happening, Order};
use self::stage::{A, B, C, D, DemoPart, DemoStage, PARTS};
use super::ansi;
use super::terminal::{Paint, print_line};

/// The channel of the demo.
const CHANNEL: &str = "demo/story";

/// Frames per second.
const FRAMES: u32 = 30;

/// The delay before the first token, in which the viewers can be read.
const OVERTURE: Duration = Duration::from_millis(900);

/// The time limit for the last event to reach the last viewer, generous for a slow machine.
const FINALE: Duration = Duration::from_secs(10);

/// The capacity of the queue of tokens for the socket.
const PENDING_TOKENS: usize = 16;

/// The capacity of the queue from the viewers to the director.
const PENDING_BEATS: usize = 256;

/// The arguments of `fanfare demo`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Tokens per second
    #[arg(long, value_name = "N", default_value_t = 25,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,

    /// Leave after the show instead of keeping the hub up
    #[arg(long)]
    exit: bool,

    /// Show two hubs that share their channels over a server of NATS
    #[arg(long)]
    cluster: bool,

    /// The program of the server; `nats-server` on the search path if it is not given
    #[arg(long, value_name = "PATH", requires = "cluster")]
    nats_server: Option<PathBuf>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.cluster {
        return cluster::run(args.rate, !args.exit, args.nats_server.as_deref()).await;
    }
    let hub = DemoHub::start().await?;
    let outcome = tokio::select! {
        outcome = show(&hub, args.rate) => outcome.map(Some),
        () = interrupted() => Ok(None),
    };
    let good = match outcome? {
        None => {
            // The picture may be half drawn; the next output begins on its own line.
            print_line("\r\nInterrupted. `fanfare demo` begins anew.")?;
            return Ok(ExitCode::from(130));
        }
        Some(good) => good,
    };
    if !args.exit {
        tell_what_to_try(&hub)?;
        interrupted().await;
        print_line("\rThe hub has stopped.")?;
    }
    hub.stop().await;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the show and returns whether every viewer received what it should.
async fn show(hub: &DemoHub, rate: u32) -> anyhow::Result<bool> {
    let mut director = Director::new(hub)?;
    director.open(hub.moved).await?;
    director.play(rate).await?;
    director.close()
}

/// Runs the show: sends tokens, gives cues, and updates the stage.
struct Director {
    client: Client,
    stage: DemoStage,
    output: DemoOutput,
    seats: Vec<DemoSeat>,
    beats: mpsc::Receiver<Beat>,
    /// The sender that each new viewer gets.
    beat: mpsc::Sender<Beat>,
    frames: Interval,
    resized: Signals,
}

impl Director {
    fn new(hub: &DemoHub) -> anyhow::Result<Self> {
        let script = script::tokens().into_iter().map(|token| token.text).collect();
        let (beat, beats) = mpsc::channel(PENDING_BEATS);
        Ok(Self {
            client: Client::new(hub.url.clone())?,
            stage: DemoStage::new(hub.url.to_string(), CHANNEL.into(), script),
            output: DemoOutput::new(),
            seats: Vec::new(),
            beats,
            beat,
            frames: steady(Duration::from_secs(1) / FRAMES),
            resized: signal(SignalKind::window_change())?,
        })
    }

    /// Subscribes A and B.
    async fn open(&mut self, moved: bool) -> anyhow::Result<()> {
        let moved = if moved { " (4100 or 4101 was taken)" } else { "" };
        self.say(format!("A hub is up on {}{moved}. A and B subscribe.", self.client.url()))?;
        self.seat(A);
        self.seat(B);
        let both =
            |stage: &DemoStage| stage.viewers[..2].iter().all(|viewer| viewer.connections > 0);
        if !self.until(Instant::now() + FINALE, both).await? {
            bail!("the hub does not answer its first two viewers");
        }
        if self.output.is_picture() {
            self.until(Instant::now() + OVERTURE, |_| false).await?;
        }
        Ok(())
    }

    /// Publishes one streamed POST: a token per tick, and after it the token's cue. Returns when
    /// every viewer has received the end, or after `FINALE`.
    async fn play(&mut self, rate: u32) -> anyhow::Result<()> {
        self.say("One POST is open: each token is an event as soon as it is written.".into())?;
        let (feed, tokens) = mpsc::channel::<String>(PENDING_TOKENS);
        let publish = self.client.publish(CHANNEL).event_type("token").close(Close::Complete);
        let answer = tokio::spawn(publish.texts(ReceiverStream::new(tokens)));
        let mut next = Instant::now();
        let mut cue = None;
        for token in script::tokens() {
            next += Duration::from_secs(1) / rate;
            self.until(next, |_| false).await?;
            if let Some(cue) = cue.take() {
                self.give(cue);
            }
            self.stage.publish(Instant::now());
            if feed.send(token.text).await.is_err() {
                break; // the response has the reason
            }
            cue = token.cue; // by the next tick, every viewer has read this token
        }
        drop(feed); // ends the body, and with it the channel
        let receipt = answer.await.context("the publisher failed")??;
        self.until(Instant::now() + FINALE, DemoStage::is_over).await?;
        self.say(format!("The channel is {}, with {} events.", receipt.state, receipt.events))
    }

    /// Restores the terminal and prints a verdict on each viewer.
    fn close(self) -> anyhow::Result<bool> {
        let Self { stage, mut output, .. } = self;
        output.show(&stage);
        drop(output); // shows the cursor
        let paint = Paint::stdout();
        print_line("")?;
        let mut all_good = true;
        for (seat, part) in PARTS.iter().enumerate() {
            let verdict = stage.verdict(seat);
            all_good &= verdict.good;
            let (mark, colour) =
                if verdict.good { ("✓", ansi::GOOD) } else { ("✗", ansi::BAD) };
            let label = paint.with(ansi::BOLD, part.label);
            print_line(format_args!("  {} {label}  {}", paint.with(colour, mark), verdict.said))?;
        }
        Ok(all_good)
    }

    /// Handles and draws events until the deadline or until `enough`; returns whether it was
    /// `enough`.
    async fn until(
        &mut self,
        deadline: Instant,
        enough: impl Fn(&DemoStage) -> bool,
    ) -> anyhow::Result<bool> {
        while !enough(&self.stage) {
            tokio::select! {
                biased;
                _ = self.frames.tick() => self.output.show(&self.stage),
                Some(beat) = self.beats.recv() => self.on(beat)?,
                () = sleep_until(deadline) => return Ok(false),
                _ = self.resized.recv() => self.output.resize(),
            }
        }
        Ok(true)
    }

    fn on(&mut self, Beat(seat, at, happening): Beat) -> anyhow::Result<()> {
        match happening {
            Happening::Connected(id) => {
                self.stage.connect(seat);
                match (seat, id) {
                    (B, Some(id)) => self.say(format!("B is back: `Last-Event-ID: {id}`."))?,
                    (C, _) => self.say("C arrives: `?from=earliest`.".into())?,
                    (D, _) => self.say("D arrives, at the tail.".into())?,
                    _ => {}
                }
            }
            Happening::Event(event) => {
                self.stage.receive(seat, event.id.as_deref(), &event.data, at);
                if seat == A {
                    self.output.quote(&event.data)?;
                }
            }
            Happening::Closed => {
                self.stage.cut(seat);
                let id = self.stage.viewers[seat].id_at_cut();
                self.say(format!("B's TCP connection is closed, after {id}."))?;
            }
            Happening::Ended(state) => {
                self.stage.end(seat, &state);
                if seat == A {
                    self.output.quote("\n")?;
                }
            }
            Happening::Failed(why) => bail!("viewer {} failed: {why}", PARTS[seat].label),
        }
        Ok(())
    }

    fn say(&mut self, text: String) -> anyhow::Result<()> {
        self.output.say(&text)?;
        self.stage.caption = text;
        Ok(())
    }

    fn seat(&mut self, seat: usize) {
        let events = self.client.subscribe(CHANNEL).from(DemoPart::start(seat));
        self.seats.push(DemoSeat::take(seat, events, self.beat.clone()));
    }

    fn give(&mut self, cue: Cue) {
        match cue {
            Cue::Cut => self.order(B, Order::Leave),
            Cue::Resume => self.order(B, Order::Return),
            Cue::JoinEarliest => self.seat(C),
            Cue::JoinTail => self.seat(D),
        }
    }

    fn order(&self, number: usize, order: Order) {
        if let Some(seat) = self.seats.iter().find(|seat| seat.number == number) {
            let _ = seat.orders.try_send(order); // a failed viewer has reported its error
        }
    }
}

fn steady(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Resolves at Ctrl-C or SIGTERM.
async fn interrupted() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => signals.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated => {}
    }
}

fn tell_what_to_try(hub: &DemoHub) -> std::io::Result<()> {
    let paint = Paint::stdout();
    let url = &hub.url;
    let admin = &hub.admin;
    let say = |text: &str| print_line(format_args!("  {}", paint.with(ansi::DIM, text)));
    let run = |text: String| print_line(format_args!("    {}", paint.with(ansi::BOLD, text)));
    print_line("")?;
    print_line(format_args!("  {}", paint.with(ansi::BOLD, "The hub is still up. Your turn:")))?;
    print_line("")?;
    say("the whole story again, then its end")?;
    run(format!("curl -N '{url}/v1/channels/{CHANNEL}?from=earliest'"))?;
    say("a channel of your own: watch it here, publish to it there")?;
    run(format!("curl -N {url}/v1/channels/hello"))?;
    run(format!("curl -d 'Hello, world' {url}/v1/channels/hello"))?;
    say("every line of a program's output, live")?;
    run(format!("ping localhost | fanfare publish logs/ping --url {url}"))?;
    say("what the hub counts")?;
    run(format!("curl {admin}/metrics"))?;
    print_line("")?;
    say("Ctrl-C stops it.")
}
