//! From nothing to a guarded gateway, in an order in which nothing is ever half
//! done; and back.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{
    blocks::{self, Blocks},
    control::{self, Ears, Ending},
    events, fast, forgetter,
    kernel::{self, KernelSettings},
    log,
    memory::{self, AtStart},
    observer::Observer,
    recorder,
    rules::{self, LoadError, Source},
    saved::Saved,
    sender::{self, RealKernel},
    shared::{
        EVENTS_WAITING, FORGETS_WAITING, Forgets, Outbox, Pulse, Rush, Shared, TRANSMITS_WAITING, Tally,
    },
    shields::{self, Shields},
    state::{Daemon, Order, Parts, State},
    status, threads,
    threads::Death,
};
use crate::{
    config::Compiled,
    engine::{Engine, Event, MOST_WAITING, Transmit},
    policy::{Live, Policy, Queues},
    sys::{
        clock::Clock,
        control::{ControlSocket, Lock, lock_namespace, missing_capabilities},
        cpus,
        ctnetlink::Ctnetlink,
        interfaces,
        queue::{self, Queue, QueueSettings},
        random, sysctl,
        table::{self, Lane, TableSpec},
    },
};

/// Octets of a packet that are copied to us: every header that is read, and
/// what an ICMP error quotes. A small copy makes bulk transfer fast.
const COPY_RANGE: u32 = 256;

/// SYNs of proven sources that may wait in a queue; they are small.
const PROVEN_WAITING: u32 = 8192;

/// Those of strangers, who have half as many queues.
const SYN_WAITING: u32 = 2 * PROVEN_WAITING;

/// With more SYNs a queue is long: a client's waits for some hundredths of a second.
pub(super) const SYN_WAITING_LONG: usize = 1024;

/// How often another range of queue numbers is tried, if somebody takes ours
/// between looking and opening.
const ATTEMPTS: usize = 5;

/// How long the end waits for a reload that is being made.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// How the daemon is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The rule file; `None`: the built-in one.
    pub rules: Option<PathBuf>,
    /// The control socket.
    pub socket: PathBuf,
    /// When it ends, the static form of the table stays.
    pub service: bool,
    /// Where saved live changes are.
    pub state_directory: PathBuf,
}

/// Runs the daemon until it is told to end.
///
/// # Errors
/// One sentence that says what to do; the gateway is then as it was.
pub fn run(options: &Options) -> Result<ExitCode> {
    let source = source_of(options.rules.as_ref())?;
    let compiled = load(&source)?;
    check_privileges()?;
    let saved = Saved::load(&options.state_directory, &source).map_err(|error| anyhow!(error))?;
    let live = saved.live().map_err(|error| anyhow!(error))?;
    let mut lock = lock_namespace()?;
    let socket = ControlSocket::bind(&options.socket)?;
    let diversion = table::probe()?;
    let policy = compiled.policy;
    check_cpus(&policy.settings.queues)?;
    let (spec, queues) = open_queues(&policy, &mut lock)?;
    let spec = TableSpec { syncookies: shields::wanted(&policy, diversion)?, ..spec };
    if !queues.iter().any(|(queue, _)| queue.tells_conntrack()) {
        log::notice(
            "this kernel does not tell which connection a helper's belongs to (it was built without \
             CONFIG_NETFILTER_NETLINK_GLUE_CT): the rules decide about connections of FTP and the like",
        );
    }
    let watch = interfaces::Watch::open().context("can't follow interfaces")?;
    let open = || {
        RealKernel::open(policy.settings.marks)
            .context("can't open the raw and ctnetlink sockets (they need CAP_NET_RAW and CAP_NET_ADMIN)")
    };
    let conntrack = || Ctnetlink::open().context("can't open the ctnetlink socket");
    let kernels = ([open()?, open()?], [conntrack()?, conntrack()?]);
    let seed = random::seed().context("no random numbers")?;
    let shared = share(policy, seed, &live)?;
    let mut crew = Crew::new();
    let mut settings = KernelSettings::default();
    // What a killed daemon has left.
    if let Err(error) = shields::settings_file().and_then(|file| sysctl::restore_from(&file)) {
        log::warning(format_args!("a kernel setting could not be put back: {error}"));
    }
    // Proven sources can flood as well.
    let syn_queues = (spec.queues(Lane::Syns)?.0, spec.queues(Lane::Proven)?.1);
    let started = crew.start(&shared, queues, syn_queues, watch, kernels).and_then(|started| {
        table::install(&spec, diversion)?;
        shared.blocks.installed(spec.blocked, shared.clock.now())?;
        shared.shields.installed(&shared.engine, (spec.syncookies, diversion), shared.clock.now())?;
        // Not before: until now a killed daemon's rules may divert to its queues.
        lock.set_note(&kernel::note(std::process::id(), spec.queue_base, spec.queue_count))?;
        Ok(started)
    });
    // Conntrack is there now: the table asks for it.
    let started = started.and_then(|started| match settings.adjust(&shared.engine) {
        Ok(()) => Ok(started),
        Err(error) => {
            give_up_table(&spec, options.service);
            Err(error.into())
        }
    });
    // What a killed daemon has left riding is not in the table: its next packets come to the
    // queue, and it is picked up, because the kernel knows it.
    if let Err(error) = fast::release_all(shared.marks.fast()) {
        log::warning(format_args!("connections of a daemon before may pass without the queue: {error}"));
    }
    let (outbox, orders) = match started {
        Ok(started) => started,
        Err(error) => {
            crew.send_home(&shared);
            return Err(error);
        }
    };
    let state = State {
        source,
        since: Clock::wall(Duration::ZERO),
        spec,
        pending: None,
        saved,
        settings,
        closing: false,
    };
    let daemon = Arc::new(Daemon::new(Parts {
        shared: Arc::clone(&shared),
        service: options.service,
        diversion,
        state_directory: options.state_directory.clone(),
        orders: orders.0,
        state,
        outbox,
    }));
    let ending = guard(&daemon, &socket, orders.1, &mut crew, compiled.warnings.len());
    finish(&daemon, &mut crew, lock, &ending)
}

/// Installs the static form of the table for these rules: what the gateway does
/// while no daemon runs.
///
/// # Errors
/// One sentence that says what to do.
pub fn hold_static(rules: Option<&PathBuf>) -> Result<()> {
    let source = source_of(rules)?;
    let compiled = load(&source)?;
    check_privileges()?;
    let settings = &compiled.policy.settings;
    let _lock = lock_namespace()?;
    table::install_static(&spec(&compiled.policy, settings.queues.base, 1))?;
    log::info(format_args!(
        "static form of the table for {source}: fail {}, hooks {}",
        status::fail_name(settings.fail),
        status::hook_names(settings.hooks).join(" "),
    ));
    Ok(())
}

/// The table of a start that failed after it was installed.
fn give_up_table(spec: &TableSpec, service: bool) {
    let result = if service { table::install_static(spec) } else { table::unload().map(|_| ()) };
    if let Err(error) = result {
        log::error(format_args!("the table could not be taken back: {error}"));
    }
}

fn source_of(rules: Option<&PathBuf>) -> Result<Source> {
    let Some(path) = rules else { return Ok(Source::Embedded) };
    // A reload comes from another directory.
    Ok(Source::File(std::path::absolute(path).context("the working directory is gone")?))
}

fn load(source: &Source) -> Result<Compiled> {
    match rules::load(source, None) {
        Ok(compiled) => {
            for warning in &compiled.warnings {
                log::warning(warning);
            }
            Ok(compiled)
        }
        Err(error) => {
            for diagnostic in error.diagnostics() {
                log::error(diagnostic);
            }
            Err(match error {
                LoadError::Refused { .. } => anyhow!("{error}: `halfgate check` shows them in place"),
                LoadError::Unreadable { .. } | LoadError::NoDefaultRoute | LoadError::Interfaces(_) => {
                    error.into()
                }
            })
        }
    }
}

fn check_privileges() -> Result<()> {
    let missing = missing_capabilities().context("can't read /proc/self/status")?;
    if missing.is_empty() {
        return Ok(());
    }
    bail!("halfgate needs root, or {}: run it with sudo or as its systemd service", missing.join(" and "))
}

fn spec(policy: &Policy, queue_base: u16, queue_count: u16) -> TableSpec {
    let settings = &policy.settings;
    TableSpec {
        hooks: settings.hooks,
        fail: settings.fail,
        marks: settings.marks,
        queue_base,
        queue_count,
        challenge: policy.challenges(),
        syncookies: false,
        blocked: blocks::lengths(policy),
    }
}

/// Whether the workers may run where the rule file wants them.
fn check_cpus(queues: &Queues) -> Result<()> {
    let allowed = cpus::allowed().context("can't see which processors there are")?;
    let Some(missing) = queues.cpus.iter().find(|cpu| !allowed.contains(cpu)) else { return Ok(()) };
    let allowed: Vec<String> = allowed.iter().map(u16::to_string).collect();
    bail!(
        "`queues: {{ cpus: ... }}` in the rule file names processor {missing}, and halfgate may run on {}: \
         name some of these (a service's are in AllowedCPUs= and CPUAffinity= of its unit)",
        allowed.join(", ")
    )
}

/// Opens all queues, before any rule sends packets to them.
fn open_queues(policy: &Policy, lock: &mut Lock) -> Result<(TableSpec, Vec<(Queue, Lane)>)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = &policy.settings.queues;
    let count = kernel::queue_count(wanted, cores);
    // A daemon that ended well wiped its note.
    let left_over = kernel::noted_range(&lock.note());
    let mut attempt = 0;
    loop {
        attempt += 1;
        let taken: Vec<u16> = queue::losses()
            .context("can't see which queues are taken")?
            .iter()
            .map(|row| row.number)
            .collect();
        let base = kernel::free_range(wanted.base, count, &taken, left_over).ok_or_else(|| {
            anyhow!(
                "there are no {} free queue numbers from {} up: stop other users of NFQUEUE, or set \
                 `queues: {{ base: N, count: M }}` in the rule file",
                Queues::in_all(count),
                wanted.base
            )
        })?;
        let spec = spec(policy, base, count);
        match open_all(&spec.all_queues()?) {
            Ok(queues) => {
                if base != wanted.base {
                    let why = if left_over.is_some() {
                        "a killed daemon's rules may still use the ones before"
                    } else {
                        "the ones before are taken"
                    };
                    log::notice(format_args!("queues start at {base}, not {}: {why}", wanted.base));
                }
                return Ok((spec, queues));
            }
            Err(queue::QueueError::Taken { .. }) if attempt < ATTEMPTS => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn open_all(all: &[(u16, Lane)]) -> Result<Vec<(Queue, Lane)>, queue::QueueError> {
    all.iter()
        .map(|(number, lane)| {
            let (max_len, conntrack) = match lane {
                Lane::Known => (MOST_WAITING, false),
                Lane::Syns => (SYN_WAITING, true),
                Lane::Proven => (PROVEN_WAITING, true),
            };
            let settings =
                QueueSettings { number: *number, copy_range: COPY_RANGE, max_len, gso: true, conntrack };
            Ok((Queue::open(settings)?, *lane))
        })
        .collect()
}

fn share(policy: Policy, seed: [u64; 2], live: &Live) -> Result<Arc<Shared>> {
    let clock = Clock::start();
    let marks = policy.settings.marks;
    let engine = Engine::new(policy, seed, clock.now());
    engine.set_live(live.clone());
    engine.set_interfaces(&interfaces::list().context("can't list interfaces")?);
    Ok(Arc::new(Shared {
        engine,
        clock,
        stop: AtomicBool::new(false),
        tally: Tally::default(),
        ring: events::Ring::new(events::REMEMBERED),
        observer: Mutex::new(Observer::new(random::seed().context("no random numbers")?)),
        marks,
        blocks: Blocks::default(),
        shields: Shields::default(),
        at_start: AtStart::now(),
        rush: Rush::default(),
    }))
}

/// All threads but the control thread.
struct Crew {
    members: Vec<JoinHandle<()>>,
    pulses: Vec<Pulse>,
    deaths: UnboundedSender<Death>,
    reports: Option<UnboundedReceiver<Death>>,
}

type Orders = (UnboundedSender<Order>, UnboundedReceiver<Order>);

impl Crew {
    fn new() -> Self {
        let (deaths, reports) = unbounded_channel();
        Self { members: Vec::new(), pulses: Vec::new(), deaths, reports: Some(reports) }
    }

    fn start(
        &mut self,
        shared: &Arc<Shared>,
        queues: Vec<(Queue, Lane)>,
        (first, last): (u16, u16),
        watch: interfaces::Watch,
        ([mut kernel, mut challenging], [mut conntrack, mut asking]): ([RealKernel; 2], [Ctnetlink; 2]),
    ) -> Result<(Outbox, Orders)> {
        let (events, inbox): (_, mpsc::Receiver<Event>) = mpsc::sync_channel(EVENTS_WAITING);
        let (transmits, sender): (_, mpsc::Receiver<Transmit>) = mpsc::sync_channel(TRANSMITS_WAITING);
        let (challenges, challenger): (_, mpsc::Receiver<Transmit>) = mpsc::sync_channel(TRANSMITS_WAITING);
        let (forgets, forgetter) = mpsc::sync_channel(FORGETS_WAITING);
        let forgets = Forgets::new(forgets);
        let (after, none_after) = (forgets.clone(), forgets.clone());
        let (questions, asked): (_, mpsc::Receiver<Transmit>) = mpsc::sync_channel(TRANSMITS_WAITING);
        let outbox = Outbox::new(events, transmits, challenges, forgets, questions);
        self.hire("recorder", shared, move |shared, pulse| recorder::run(shared, &inbox, pulse))?;
        self.hire("sender", shared, move |shared, pulse| {
            sender::run(shared, &sender, &mut kernel, &after, pulse)
        })?;
        self.hire("challenger", shared, move |shared, pulse| {
            sender::run(shared, &challenger, &mut challenging, &none_after, pulse)
        })?;
        self.hire("forgetter", shared, move |shared, pulse| {
            forgetter::run(shared, &forgetter, &mut conntrack, pulse)
        })?;
        let own = outbox.clone();
        self.hire("asker", shared, move |shared, pulse| fast::ask(shared, &asked, &own, &mut asking, pulse))?;
        self.hire("blocker", shared, blocks::run)?;
        self.hire("shields", shared, move |shared, pulse| shields::run(shared, first..=last, pulse))?;
        self.hire("interfaces", shared, move |shared, pulse| {
            threads::watch_interfaces(shared, &watch, pulse)
        })?;
        let policy = shared.engine.policy();
        for (index, (queue, lane)) in queues.into_iter().enumerate() {
            let outbox = outbox.clone();
            let name = format!("queue-{}", queue.number());
            let cpu = kernel::cpu_of(&policy.settings.queues, index);
            let bell = queue.bell().with_context(|| format!("can't wake thread {name}"))?;
            self.hire_as(Pulse::new(name).with_bell(bell), shared, move |shared, pulse| {
                if let Some(cpu) = cpu {
                    cpus::pin(cpu).map_err(|error| format!("can't run on processor {cpu}: {error}"))?;
                }
                let usual = cpus::niceness();
                let may =
                    || cpus::be_nice(usual + kernel::niceness(lane)).and_then(|()| cpus::be_nice(usual));
                if index == 0
                    && let Err(error) = may()
                {
                    log::notice(format_args!(
                        "live connections can't go before floods where they compete for a processor: {error}"
                    ));
                }
                threads::serve(shared, queue, lane, &outbox, pulse)
            })?;
        }
        let own = outbox.clone();
        self.hire("ticker", shared, move |shared, pulse| threads::tick(shared, &own, pulse))?;
        Ok((outbox, unbounded_channel()))
    }

    fn hire(
        &mut self,
        name: &str,
        shared: &Arc<Shared>,
        work: impl FnOnce(&Arc<Shared>, &Pulse) -> Result<(), String> + Send + 'static,
    ) -> Result<()> {
        self.hire_as(Pulse::new(name.to_owned()), shared, work)
    }

    fn hire_as(
        &mut self,
        pulse: Pulse,
        shared: &Arc<Shared>,
        work: impl FnOnce(&Arc<Shared>, &Pulse) -> Result<(), String> + Send + 'static,
    ) -> Result<()> {
        self.pulses.push(pulse.clone());
        let (shared, name) = (Arc::clone(shared), pulse.name.clone());
        let member = threads::spawn(&name, &self.deaths, move || work(&shared, &pulse))
            .with_context(|| format!("can't start thread {name}"))?;
        self.members.push(member);
        Ok(())
    }

    fn send_home(&mut self, shared: &Shared) {
        shared.stop.store(true, Ordering::Relaxed);
        self.pulses.iter().for_each(Pulse::ask);
        for member in self.members.drain(..) {
            // Its panic was reported already.
            let _ = member.join();
        }
    }
}

/// The time in which the gateway is guarded.
fn guard(
    daemon: &Arc<Daemon>,
    socket: &ControlSocket,
    orders: UnboundedReceiver<Order>,
    crew: &mut Crew,
    warnings: usize,
) -> Result<Ending> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(super::seats::SEATS + 3)
        .thread_name("control-job")
        // What can't be had is no loss.
        .on_thread_start(|| drop(cpus::be_nice(cpus::niceness() + cpus::NICE)))
        .build()
        .context("can't start the control side")?;
    let reports = crew.reports.take().context("the crew's reports are heard already")?;
    let spec = daemon.state().spec;
    let queues = spec.all_queues()?.into_iter().map(|(number, _)| number).collect();
    let pulses = crew.pulses.clone();
    let ears = Ears { listener: socket.listener()?, orders, deaths: reports, pulses, queues };
    let ending = runtime.block_on(control::run(daemon, ears, || ready(daemon, socket, warnings)));
    // Clients in the middle of an answer get a moment, not a veto.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(ending?)
}

fn ready(daemon: &Daemon, socket: &ControlSocket, warnings: usize) {
    let state = daemon.state();
    let policy = daemon.shared.engine.policy();
    let (base, count) = (state.spec.queue_base, state.spec.queue_count);
    let last = u32::from(base) + Queues::in_all(count) - 1;
    log::info(format_args!(
        "ready: rules {} ({} rules, {warnings} warnings), hooks {}, queues {base}-{last} ({count} for known \
         connections, {} for SYNs, {count} for those of proven sources), diversion {}, fail {}, socket {}",
        state.source,
        policy.rules.len(),
        status::hook_names(policy.settings.hooks).join(" "),
        Queues::for_syns(count),
        daemon.diversion,
        status::fail_name(policy.settings.fail),
        socket.path().display(),
    ));
    let memory = memory::plan(&daemon.shared.engine, daemon.shared.at_start);
    log::info(format_args!("memory: {}", memory::words(&memory)));
    if let Some(words) = memory::warning(&daemon.shared.engine, &memory) {
        log::warning(words);
    }
    for change in daemon.live_changes(&state) {
        let rule = change.rule.map(|rule| format!(" of rule {rule}")).unwrap_or_default();
        log::notice(format_args!("saved live change: {}{rule} is {}", change.name, change.value));
    }
    let raised = state.settings.words();
    if !raised.is_empty() {
        log::info(format_args!("raised until the end: {}", raised.join(", ")));
    }
    for words in state.settings.shortfalls() {
        log::warning(words);
    }
    drop(state);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// The table goes first, while the queues are still served: packets in flight
/// keep their verdicts. After a death what `fail` says stays in force: this is
/// what it is for.
fn finish(daemon: &Arc<Daemon>, crew: &mut Crew, lock: Lock, ending: &Result<Ending>) -> Result<ExitCode> {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    if let Some(mut state) = daemon.try_state_for(LAST_WORDS) {
        state.closing = true;
    }
    // The static form needs no queues.
    let held = spec(&daemon.shared.engine.policy(), 0, 1);
    let (fatal, hold) = match ending {
        Ok(Ending::Signal(name)) => {
            log::info(format_args!("{name}: ending"));
            (None, daemon.service)
        }
        Ok(Ending::Unload) => {
            log::notice("unload: ending, the gateway is not guarded any more");
            (None, false)
        }
        Ok(Ending::Fatal(why)) => (Some(why.clone()), true),
        Err(error) => (Some(format!("{error:#}")), true),
    };
    let result = if hold { table::install_static(&held) } else { table::unload().map(|_| ()) };
    if let Err(error) = fast::release_all(daemon.shared.marks.fast()) {
        log::warning(format_args!("conntrack keeps mark bits of halfgate's: {error}"));
    }
    // A thread that is stuck would not come home; the end of the process ends it.
    if fatal.is_none() {
        crew.send_home(&daemon.shared);
    }
    daemon.shared.shields.end();
    if let Some(mut state) = daemon.try_state_for(LAST_WORDS)
        && let Err(error) = state.settings.restore()
    {
        log::warning(format_args!("a kernel setting could not be put back: {error}"));
    }
    if result.is_ok() {
        lock.remove();
    }
    if let Some(why) = fatal {
        log::error(&why);
        if hold && result.is_ok() {
            log::error(
                "packets now meet what `fail` says, until a daemon starts again or `halfgate unload` removes the table",
            );
        }
        result?;
        return Ok(ExitCode::FAILURE);
    }
    result?;
    Ok(ExitCode::SUCCESS)
}
