//! `fanfare demo --cluster`: a server of NATS and two hubs, as processes. A viewer whose hub is
//! killed continues at the other one.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use fanfare_client::{Client, Close, HubUrl, Signal, Start};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::output::DemoOutput;
use super::{CHANNEL, interrupted};
use crate::cli::ansi;
use crate::cli::terminal::{Paint, print_line};

/// The name of the server's program.
const SERVER: &str = "nats-server";

/// The preferred ports of the hubs.
const PORTS: [u16; 2] = [4100, 4102];

/// Time limit for a process to start, and for the last event to reach the viewers.
const PATIENCE: Duration = Duration::from_secs(30);

/// Interval at which a process that starts is asked whether it is ready.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The text that is published, before and after the second hub is killed.
const BEFORE: &str = "The publisher writes to hub 1. Viewer A reads at hub 1, and viewer B at hub \
                      2: each event goes through the log that both hubs share, so both have it \
                      with the same id. Now the process of hub 2 is killed:";
const AFTER: &str = "B's connection is gone. It connects to hub 1, names the last id that hub 2 \
                     had sent, and gets what comes after that: no event is missing, and none \
                     comes twice.";

/// Runs the demo. Returns whether both viewers have received all events.
pub(super) async fn run(rate: u32, stays: bool, server: Option<&Path>) -> anyhow::Result<ExitCode> {
    let server = find_server(server)?;
    let mut output = DemoOutput::lines();
    let mut cluster = tokio::select! {
        started = DemoCluster::start(&server, &mut output) => started?,
        () = interrupted() => return Ok(ExitCode::from(130)),
    };
    let shown = tokio::select! {
        shown = show(&mut cluster, &mut output, rate) => shown?,
        () = interrupted() => return Ok(ExitCode::from(130)),
    };
    if stays {
        say_what_to_try(&cluster)?;
        interrupted().await;
        print_line("\rThe cluster has stopped.")?;
    }
    Ok(if shown { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the program of the server: the given one, or the one on the search path.
fn find_server(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        if path.is_file() {
            return Ok(path.to_owned());
        }
        bail!("there is no file {}: give the program `{SERVER}`", path.display());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian has it among the programs of administrators.
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = folders.map(|folder| folder.join(SERVER)).find(|file| file.is_file());
    found.context(
        "a cluster needs a server of NATS, and there is no `nats-server` on this machine. Get it \
         with `apt install nats-server`, `brew install nats-server`, or from \
         https://github.com/nats-io/nats-server/releases, and name the program with \
         `--nats-server <path>` unless it is on the search path",
    )
}

/// A server of NATS and two hubs. They end when this is dropped.
struct DemoCluster {
    hubs: [DemoProcess; 2],
    clients: [Client; 2],
    _server: Child,
    _folder: Folder,
}

/// A hub as a process.
struct DemoProcess {
    child: Child,
    admin: HubUrl,
}

/// A folder that is deleted when this is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl DemoCluster {
    async fn start(server: &Path, output: &mut DemoOutput) -> anyhow::Result<Self> {
        let folder = Folder(env::temp_dir().join(format!("fanfare-demo-{}", std::process::id())));
        fs::create_dir_all(&folder.0).context("cannot make a folder for the shared log")?;
        let addr = free_address(None)?;
        let server = start_server(server, addr, &folder.0).await?;
        output.say(&format!("A server of NATS has the shared log, on {addr}."))?;
        let mut hubs = Vec::new();
        let mut clients = Vec::new();
        for (number, port) in (1..).zip(PORTS) {
            let public = free_address(Some(port))?;
            let hub = DemoProcess::start(number, public, addr, &folder.0)?;
            clients.push(Client::new(format!("http://{public}").parse()?)?);
            hubs.push(hub);
        }
        for hub in &mut hubs {
            hub.ready().await?;
        }
        let (Ok(hubs), Ok(clients)) = (hubs.try_into(), clients.try_into()) else {
            bail!("there are two hubs")
        };
        Ok(Self { hubs, clients, _server: server, _folder: folder })
    }
}

/// Starts a server, and waits until it listens.
async fn start_server(server: &Path, addr: SocketAddr, folder: &Path) -> anyhow::Result<Child> {
    let mut command = quiet(server.as_os_str());
    command.args(["-js", "-a", &addr.ip().to_string(), "-p", &addr.port().to_string(), "-sd"]);
    command.arg(folder.join("log"));
    let mut child = command.spawn().with_context(|| format!("cannot run {}", server.display()))?;
    let began = Instant::now();
    while TcpStream::connect(addr).await.is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("{} has ended: {status}", server.display());
        }
        if began.elapsed() > PATIENCE {
            bail!("{} does not listen on {addr}", server.display());
        }
        sleep(CHECK_INTERVAL).await;
    }
    Ok(child)
}

impl DemoProcess {
    fn start(
        number: usize,
        public: SocketAddr,
        server: SocketAddr,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let admin = free_address(Some(public.port() + 1))?;
        let program = env::current_exe().context("cannot find the program of the hubs")?;
        let log = fs::File::create(folder.join(format!("hub-{number}.log")))?;
        let mut command = quiet(program.as_os_str());
        command.arg("serve").stderr(log);
        command.args(["--listen", &public.to_string(), "--admin-listen", &admin.to_string()]);
        command.envs([
            ("FANFARE_CLUSTER__BACKPLANE", "nats"),
            ("FANFARE_CLUSTER__NAME", "demo"),
            ("FANFARE_CLUSTER__NODE", &format!("hub-{number}")),
            ("FANFARE_CLUSTER__SERVERS", &format!("nats://{server}")),
            ("FANFARE_CLUSTER__REPLICAS", "1"),
            ("FANFARE_CLUSTER__MAX_BYTES", "64MiB"),
            ("FANFARE_DRAIN__WINDOW", "200ms"),
        ]);
        let child = command.spawn().context("cannot start a hub")?;
        Ok(Self { child, admin: format!("http://{admin}").parse()? })
    }

    /// Waits until the hub has joined the cluster.
    async fn ready(&mut self) -> anyhow::Result<()> {
        let client = Client::new(self.admin.clone())?;
        let began = Instant::now();
        loop {
            if let Ok(reply) = client.get("/readyz").await
                && reply.status().is_success()
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("a hub has ended: {status}");
            }
            if began.elapsed() > PATIENCE {
                bail!("a hub does not join its cluster: see {}/readyz", self.admin);
            }
            sleep(CHECK_INTERVAL).await;
        }
    }
}

/// Returns a command whose process says nothing, and ends with this one.
fn quiet(program: &OsStr) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command
}

/// Returns an address of this machine that is free: with this port, if that is free.
fn free_address(port: Option<u16>) -> std::io::Result<SocketAddr> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = port.map_or_else(|| bind(0), |port| bind(port).or_else(|_| bind(0)))?;
    listener.local_addr()
}

/// Publishes the text, and kills the second hub within it.
async fn show(
    cluster: &mut DemoCluster,
    output: &mut DemoOutput,
    rate: u32,
) -> anyhow::Result<bool> {
    let [first, second] = cluster.clients.clone();
    output.say(&format!("Hub 1 is up on {}, hub 2 on {}.", first.url(), second.url()))?;
    let (seen, mut texts) = mpsc::channel(256);
    let (opened, mut is_open) = watch::channel(0);
    let at_first = view(first.clone(), None, seen, opened.clone());
    let at_second = view(second, Some(first.clone()), mpsc::channel(1).0, opened);
    let [a, b] = [tokio::spawn(at_first), tokio::spawn(at_second)];
    timeout(PATIENCE, is_open.wait_for(|open| *open == 2)).await.context("no viewer came")??;
    let (feed, tokens) = mpsc::channel::<String>(16);
    let publish = first.publish(CHANNEL).event_type("token").close(Close::Complete);
    let answer = tokio::spawn(publish.texts(ReceiverStream::new(tokens)));
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for (text, kills) in [(BEFORE, true), (AFTER, false)] {
        for word in words(text) {
            ticks.tick().await;
            if feed.send(word).await.is_err() {
                break; // the answer has the reason
            }
            // A reads it before the next one is written.
            if let Ok(Some(text)) = timeout(PATIENCE, texts.recv()).await {
                output.quote(&text)?;
            }
        }
        if kills {
            cluster.hubs[1].child.kill().await.context("cannot kill hub 2")?;
            output.say("Hub 2 is killed.")?;
        }
    }
    drop(feed); // ends the body, and with it the channel
    let receipt = answer.await.context("the publisher failed")??;
    let seen = timeout(PATIENCE, async { (a.await, b.await) }).await;
    let (a, b) = seen.context("a viewer has not received the end")?;
    let published = usize::try_from(receipt.events).unwrap_or(usize::MAX);
    output.say(&format!("The channel is {}, with {published} events.", receipt.state))?;
    let paint = Paint::stdout();
    print_line("")?;
    let mut all = true;
    for (name, viewer) in [("A", a?), ("B", b?)] {
        let Viewed { events, hubs } = viewer?;
        let is_whole = events == [words(BEFORE), words(AFTER)].concat();
        all &= is_whole && events.len() == published;
        let mark =
            if is_whole { paint.with(ansi::GOOD, "✓") } else { paint.with(ansi::BAD, "✗") };
        let path = if hubs > 1 { "from hub 2, and then from hub 1" } else { "from hub 1" };
        print_line(format_args!("  {mark} {name}  {} events, {path}", events.len()))?;
    }
    Ok(all)
}

/// Returns the words of a text, each with the space before it.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = text.split(' ').map(|word| format!(" {word}")).collect();
    if let Some(first) = words.first_mut() {
        first.remove(0);
    }
    words
}

/// What a viewer has received.
struct Viewed {
    events: Vec<String>,
    /// Number of hubs that it has read from.
    hubs: usize,
}

/// Reads the channel to its end, at the other hub when the connection to this one is lost.
async fn view(
    mut client: Client,
    mut other: Option<Client>,
    seen: mpsc::Sender<String>,
    opened: watch::Sender<usize>,
) -> anyhow::Result<Viewed> {
    let mut viewed = Viewed { events: Vec::new(), hubs: 1 };
    let mut subscription = client.subscribe(CHANNEL);
    let mut is_counted = false;
    loop {
        match subscription.signal().await? {
            Signal::Connected(_) if !is_counted => {
                is_counted = true;
                opened.send_modify(|open| *open += 1);
            }
            Signal::Connected(_) => {}
            Signal::Event(event) if event.end().is_some() => return Ok(viewed),
            Signal::Event(event) if event.gap().is_some() => bail!("events are missing"),
            Signal::Event(event) if event.is_control() => {}
            Signal::Event(event) => {
                let _ = seen.try_send(event.data.clone());
                viewed.events.push(event.data);
            }
            Signal::Lost(why, _) => {
                let Some(next) = other.take() else { bail!("hub 1 is lost: {why}") };
                let last = subscription.last_id().map(str::to_owned);
                client = next;
                let start = last.map_or(Start::Earliest, Start::After);
                subscription = client.subscribe(CHANNEL).from(start);
                viewed.hubs += 1;
            }
            Signal::Ended => bail!("the stream has ended without an end"),
        }
    }
}

fn say_what_to_try(cluster: &DemoCluster) -> std::io::Result<()> {
    let paint = Paint::stdout();
    let url = cluster.clients[0].url();
    let admin = &cluster.hubs[0].admin;
    let run = |text: String| print_line(format_args!("    {}", paint.with(ansi::BOLD, text)));
    print_line("")?;
    print_line(format_args!("  {}", paint.with(ansi::BOLD, "Hub 1 is still up. Your turn:")))?;
    print_line("")?;
    run(format!("curl -N '{url}/v1/channels/{CHANNEL}?from=earliest'"))?;
    run(format!("curl {admin}/v1/cluster"))?;
    print_line("")?;
    print_line(format_args!("  {}", paint.with(ansi::DIM, "Ctrl-C stops it.")))
}
