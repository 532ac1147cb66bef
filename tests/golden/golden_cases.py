"""The command lines that the golden net runs, by section.

The first word of a line names the program: a verb of `inference.py` or of `python -m maskdiff`,
`benchmark`, `train` or `distillation`. `{tmp}` is a scratch folder that the lines of a section
share, with the files of `FILES` in it, and `{url}` is the server of the section `serve`. Verbs run
with `--json`, unless the line begins with `text:`. `golden_programs.py` adds `--threads 1` and
`--device cpu`.
"""

from __future__ import annotations


def words(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


PRESETS = words(
    "maskgit maskgit_linear maskgit_reference ancestral random entropy margin left_to_right "
    "dilated spaced information entropy_bound spaced_bound coupled coupled_left_to_right "
    "threshold remdm_cap remdm_rescale remdm_conf self_conditioned naive refine "
    "predictor_corrector causal_corrector autoregressive predictive hybrid hybrid_speculative "
    "hybrid_reference verified certain_prefix speculative coarse_to_fine"
)
FEW = words("autoregressive maskgit coupled hybrid speculative refine predictive coarse_to_fine")
VARIANTS = words(
    "v1 v2 v3 v4 skeleton hybrid_aware python-expressions-bpe arithmetic-steps "
    "arithmetic-corrections"
)
MAIN = words("arithmetic-bpe json python-expressions")
CONTROLS = [
    "--temperature 0",
    "--temperature 0.7",
    "--temperature 1.5 --top_p 0.8",
    "--top_p 0.5",
    "--top_k 2",
    "--min_p 0.2",
    "--repetition_penalty 1.5",
    "--repetition_penalty 1.5 --exempt_prompt",
    "--presence_penalty 1.5",
    "--frequency_penalty 0.8",
    "--no_repeat_ngram 3",
    "--dry_multiplier 1 --dry_allowed_length 1",
    "--dry_multiplier 2 --dry_base 1.2 --dry_range 8 --dry_breakers )",
    "--stop )",
    "--stop )= --stop *",
    "--stop_token )",
    "--max_tokens 9",
    "--loop_period 2 --loop_repeats 2",
    "--first_complete",
    "--stop ) --max_tokens 12 --min_p 0.05 --top_k 5 --presence_penalty 0.5",
]


def on(name: str) -> str:
    """The flag that chooses a shipped checkpoint."""
    return f"--checkpoint checkpoints/{name}.pt"


GENERATE = [
    *(f"generate --num 3 --length 12..20 --sampler {name}" for name in PRESETS),
    *(f"generate --num 3 --length 12..20 --grammar --sampler {name}" for name in PRESETS),
    *(f"generate --num 3 --seed 5 --steps 0 --sampler {name}" for name in FEW),
    *(f"generate --num 2 --length 31 --steps 5 --sampler {name}" for name in FEW),
    *(f"generate --num 3 --sampler {name} {on(model)}" for model in MAIN for name in FEW),
    *(
        f"generate --num 2 --length 18 --grammar --sampler {name} {on(model)}"
        for model in ("json", "python-expressions")
        for name in ("autoregressive", "maskgit", "hybrid", "speculative")
    ),
    f"generate --num 3 --grammar --seed 2 {on('arithmetic-bpe')}",
    *(f"generate --num 3 {flags} {on('arithmetic-bpe')}" for flags in CONTROLS),
    *(f"generate --num 3 --length 20 {flags}" for flags in CONTROLS),
    *(f"generate --num 2 --length 20 --sampler maskgit {flags}" for flags in CONTROLS),
    *(f"generate --num 2 --length 20 --sampler hybrid {flags}" for flags in CONTROLS[:12]),
    *(f"generate --num 2 --grammar --length 20 {flags}" for flags in CONTROLS[:4]),
    *(
        f"generate --num 2 --seed 3 --sampler {name} {on(model)}"
        for model in VARIANTS
        for name in ("autoregressive", "spaced_bound")
    ),
    f"generate --num 3 --max_tokens 200 --loop_period 8 {on('arithmetic-bpe')}",
    f"generate --num 4 --config configs/decode.yaml {on('arithmetic-bpe')}",
    "generate --num 3 --num_ar_tokens 6 --sampler hybrid",
    "generate --num 40 --seed 11",
    "text: generate --num 3 --length 15 --pretty",
    "text: generate --num 2 --length 15 --trace --sampler maskgit",
    "generate --num 2 --length 15 --trace --sampler hybrid_speculative",
    "generate --num 2 --length 15 --trace",
    "generate --num -1",
    "generate --sampler nothing",
    "generate --length 5000",
    "generate --checkpoint checkpoints/missing.pt",
]

TYPED = ['"(+ (*7"', '"(+(*75)8)="', '"(*"', '""']
COMPLETE = [
    *(f"complete {text} --num 3 {on('arithmetic-bpe')}" for text in TYPED),
    *(
        f"complete {text} --num 3 --mode {mode} {on('arithmetic-bpe')}"
        for text in TYPED[:2]
        for mode in ("exact", "beam --beam 4", "canonical", "auto --budget 2")
    ),
    *(f'complete "(+(*75)8)" --num 2 {flags} {on("arithmetic-bpe")}' for flags in CONTROLS),
    *(f'complete "(+ 3" --num 2 {flags}' for flags in CONTROLS[:14]),
    """complete "(+(*7" --suffix "=45" --num 3 --checkpoint checkpoints/arithmetic-bpe.pt""",
    'complete "(+(*7" --suffix ")=45" --num 3',
    'complete "(+(*7" --suffix ")" --num 2 --temperature 0.5',
    'complete "(+ 3" "(* 2" "(+ 3" --num 3 --seed 4',
    'complete "(+(*7" --num 3 --candidates 5',
    'text: complete "(+(*7" --num 2 --stream',
    'complete "(+(*7" --num 2 --stream --checkpoint checkpoints/arithmetic-bpe.pt',
    'text: complete "(+(*7" --num 2 --pretty',
    'complete "x)" --num 2',
    "complete --input {tmp}/typed.txt --num 2",
    "complete --input {tmp}/typed.txt --config configs/decode.yaml " + on("arithmetic-bpe"),
    f'complete "[1," --num 3 {on("json")}',
    f"complete '{{\"id\":' --num 2 --suffix '}}' {on('json')}",
    f'complete "self.get(" "[x for x in " --num 2 {on("python-expressions-bpe")}',
    f'complete "self.get(" --num 2 --mode canonical --top_p 0.9 {on("python-expressions-bpe")}',
    f'complete "self.get(" --num 2 --first_complete {on("python-expressions-bpe")}',
    f'complete "self." --num 2 --candidates 3 {on("python-expressions")}',
    *(f'complete "(+" --num 1 {on(model)}' for model in ("v1", "v4", "skeleton", "hybrid_aware")),
    f'complete "(+ 3 (* 2 4))" --num 1 {on("arithmetic-steps")}',
]

BROKEN = ['"(+(*75)10=45"', '"(+(*7)10)=45"', '"+(*75)10)=46"', '"(*(+12)(+3x))=30"']
REPAIR = [
    "repair " + " ".join(BROKEN),
    *(f"repair {text} --grammar" for text in BROKEN),
    *(f"repair {text} --holds --top 3" for text in BROKEN),
    "repair " + " ".join(BROKEN) + " --grammar --holds --top 4 --slack 1",
    f"repair {BROKEN[0]} --max_edits 1 --top 5 --beam 8",
    f"repair {BROKEN[0]} --certain 3:6 --top 3 --holds",
    f"repair {BROKEN[0]} --sigma 0.3 --slack 3 --candidates 10",
    f"repair {BROKEN[0]} --trace --top 2",
    f"text: repair {BROKEN[0]} {BROKEN[1]} --script --top 3",
    f"repair {BROKEN[0]} {BROKEN[1]} --method draft",
    f"repair {BROKEN[0]} {BROKEN[1]} --method draft --seed 7 --grammar",
    f"repair {BROKEN[0]} {BROKEN[1]} --method least_edits --top 2",
    'repair "(+(*??)10)=45" --grammar',
    'repair "hello" "(+11)=2" --grammar',
    "repair --input {tmp}/broken.txt",
    "repair --input {tmp}/broken.txt --grammar --top 2",
    f'repair \'{{"id":17,"tags":["a","b"}}\' {on("json")}',
    f'repair \'{{"id":17,"tags":["a","b"}}\' \'[1,,2\' --grammar --top 3 {on("json")}',
    f"repair 'self.get(key' 'a if b els c' {on('python-expressions')}",
    f"repair 'self.get(key' 'a if b els c' --grammar {on('python-expressions')}",
    *(f"repair {BROKEN[0]} --seed 2 {on(model)}" for model in ("v1", "v2", "v3", "v4")),
    *(f"repair {BROKEN[1]} --grammar {on(model)}" for model in ("skeleton", "hybrid_aware")),
    f"repair {BROKEN[0]} --certain 90:95",
    f"repair {BROKEN[0]} --method nothing",
]

BLANKS = '"(+(*??)10)=45"'
WHOLE = '"(+(*75)10)=45"'
EDIT = [
    f'edit {BLANKS} "(+?(*24))=1?" "(+(*7?)(+?1))=5?"',
    f'edit {BLANKS} "(+?(*24))=1?" "(*?(*?(*??)))=50" --holds',
    f"edit {BLANKS} --holds --bound 5",
    f"edit {BLANKS} --holds --trace",
    f'edit "(?(*????????=45" {BLANKS} --grammar',
    f"edit {WHOLE} --mask 3:5 --mask 7:9",
    f"edit {WHOLE} --replace 2:7 --length 5..9",
    f"edit {WHOLE} --replace 2:7 --length 5..7 --grammar",
    f"edit {WHOLE} --replace 2:7 --length 5..6 --holds",
    f"edit {WHOLE} --replace 7:7 --length 4",
    f"edit {WHOLE} --replace 2:7 --sampler hybrid --length 5..6",
    *(f"edit {BLANKS} {WHOLE} --mask 6:9 --sampler {name}" for name in FEW),
    *(f'edit "(?(*????????=45" --grammar --sampler {name}' for name in FEW),
    f"edit {BLANKS} --temperature 0.5 --top_p 0.9 --seed 3",
    f"edit {BLANKS} --beam 2 --candidates 3 --trace",
    f"text: edit {BLANKS} --pretty",
    "edit --input {tmp}/blanks.txt",
    "edit --input {tmp}/blanks.txt --sampler spaced_bound --seed 9",
    f"edit 'self.¿¿¿¿¿.get(key, ¿¿¿¿)' {on('python-expressions')}",
    f"edit 'self.¿¿¿¿¿.get(key, ¿¿¿¿)' --grammar {on('python-expressions')}",
    f'edit \'{{"¿¿":¿¿,"a":[¿¿¿]}}\' --grammar {on("json")}',
    f'edit \'{{"¿¿":¿¿,"a":[???]}}\' --sampler autoregressive {on("json")}',
    *(f"edit {BLANKS} {on(model)}" for model in ("v1", "v2", "v3", "v4", "skeleton")),
    f"edit {WHOLE} --length 5",
    f"edit {WHOLE} --replace 80:90",
]

PROBLEM = '"(+ 3 (* 2 4))" "(* (+ 12 13) (- 20 (+ 3 30)))"'
SCORERS = words("entropy perplexity probability gap vote denoiser checker")
STRATEGIES = words("greedy sample every-step always adaptive random never best-of-n")
SOLVE = [
    *(f"solve {PROBLEM} --strategy {name}" for name in STRATEGIES),
    *(f"solve {PROBLEM} --strategy every-step --scorer {name}" for name in SCORERS),
    *(f"solve {PROBLEM} --strategy best-of-n --scorer {name} --candidates 3" for name in SCORERS),
    f"solve {PROBLEM} --scaling 0.99 --momentum 0.5 --bias_corrected --seed 3",
    f"solve {PROBLEM} --strategy random --rate 0.8 --draft sample --temperature 1.2",
    f"solve {PROBLEM} --scorer denoiser --scorer_groups 2 --strategy every-step",
    f"solve {PROBLEM} --max_steps 2",
    f"solve {PROBLEM} --max_step_tokens 6 --min_step_tokens 2",
    f'solve {PROBLEM} --step_stop ")" --max_steps 4 --no_guard',
    f"solve {PROBLEM} --backend blocks --strategy greedy",
    f"solve {PROBLEM} --backend blocks --strategy every-step --per_call 3 --block 6",
    f"solve {PROBLEM} --backend blocks --scorer gap --seed 2",
    "solve --input {tmp}/problems.txt --strategy sample --seed 1",
    f"text: solve {PROBLEM} --show",
    "solve --probe",
    "solve --probe --backend blocks",
    f"solve {PROBLEM} --strategy sample {on('arithmetic-corrections')}",
    'solve "(+ 3"',
]

SMALL = (
    "train --max_iters 10 --log_interval 1 --eval_interval 5 --eval_samples 16 --live_samples 4 "
    "--num_samples 200 --batch_size 16 --n_embd 64"
)
TRAINING = [
    f"{SMALL} --checkpoint_dir {{tmp}}/default",
    f"{SMALL} --checkpoint_dir {{tmp}}/bpe --vocabulary bpe --vocab_size 48 --no_causal_length "
    "--open_share 0.2 --optimizer adamw --decay cosine --ema 0 --dropout 0.1",
    f"{SMALL} --checkpoint_dir {{tmp}}/modes --use_self_cond --use_coupling --skeleton_share 0.3 "
    "--causal_share 0.2 --repair_share 0.3 --shards 2 --ar_prefix_ratio 0.3 --head aligned --tied",
    f"{SMALL} --checkpoint_dir {{tmp}}/faults --no_causal_length --strings_in_a_row 3 "
    "--cut_rows 0.5 --max_depth 2 --corruption_mode mask_only --loss_weight uniform",
    f"{SMALL} --checkpoint_dir {{tmp}}/faithful --faithful --positions learned --length_tilt 0.5 "
    "--high_noise_bias 0.3 --sigma_input level --no_low_discrepancy --num_samples 0",
    f"{SMALL} --checkpoint_dir {{tmp}}/steps --language arithmetic-steps --max_len 128 "
    "--no_causal_length --max_depth 2",
    f"{SMALL} --checkpoint_dir {{tmp}}/init --init {{tmp}}/default/best.pt --seed 4",
    "train --resume --checkpoint_dir {tmp}/modes --max_iters 13",
    "generate --num 2 --length 12 --checkpoint {tmp}/modes/last.pt",
    "train --checkpoint_dir {tmp}/bad --n_layer 0",
    "train --resume --checkpoint_dir {tmp}/missing",
]

# With the options that would otherwise be chosen from the lines.
TEXTS = (
    f"{SMALL} --save_interval 5 --causal_share 0.3 --repair_share 0.15 --skeleton_share 0.05 "
    "--length_tilt 0 --dropout 0 --weight_decay 0.01 --criterion mixture --patience 0 "
    "--ema 0.999 --warmup_iters 100 --decay_share 0.6 --sigma_min 0.1 --sigma_max 0.9 "
    "--k_iter 2 --n_layer 2 --no_compile"
)
LANGUAGES = [
    "languages check {tmp}/pairs --lines 40 --draws 40",
    "languages check {tmp}/sums --lines 40 --draws 40 --seed 2",
    "languages check {tmp}/sums --lines 20 --draws 20 --spacing none --start sum",
    "text: languages check {tmp}/pairs --lines 10 --draws 10",
    f"{TEXTS} --checkpoint_dir {{tmp}}/run-pairs --language {{tmp}}/pairs",
    f"{TEXTS} --checkpoint_dir {{tmp}}/run-sums --language {{tmp}}/sums --vocabulary bpe "
    "--vocab_size 40 --no_causal_length",
    f"{TEXTS} --checkpoint_dir {{tmp}}/run-spaced --language {{tmp}}/sums",
    f"{TEXTS} --checkpoint_dir {{tmp}}/run-lists --language {{tmp}}/lists --validity json:loads",
    *(
        f"{verb} --checkpoint {{tmp}}/run-{name}/best.pt{flag}"
        for name, verbs in {
            "pairs": [
                "generate --num 3 --length 12",
                "generate --num 2 --length 12 --sampler maskgit",
                "complete 'ab=1,' --num 2",
                "repair 'ab=1,c7' --top 2",
                "edit 'a?=?,b???'",
                "edit 'ab=12,ba=7' --replace 2:6 --length 4..6",
            ],
            "sums": [
                "generate --num 3",
                "generate --num 2 --first_complete --max_tokens 30",
                "complete '1 + ' '12-' --num 2",
            ],
            "spaced": [
                "generate --num 2 --length 10",
                "complete '1 + ' --num 2",
                "repair '1 ++ 2' '12-3' --top 2",
                "edit '1? + ??'",
            ],
            "lists": [
                "generate --num 2 --length 8 --validity json:loads",
                "complete '[1' --num 2 --validity json:loads --candidates 3",
                "repair '[1,2' --validity json:loads",
            ],
        }.items()
        for verb in verbs
        for flag in ("", " --grammar")
        if not (flag and (name in ("lists", "sums") or verb.startswith("complete")))
    ),
    "repair 'ab=1,c7' --grammar --language {tmp}/pairs --checkpoint {tmp}/run-pairs/last.pt",
    "train --resume --checkpoint_dir {tmp}/run-pairs --max_iters 13",
    "train --resume --checkpoint_dir {tmp}/run-sums --max_iters 13 --language {tmp}/sums",
    "train --resume --checkpoint_dir {tmp}/run-lists --max_iters 13 --validity json:loads",
    "generate --num 2 --grammar --length 14 --checkpoint {tmp}/run-pairs/last.pt",
    "benchmark --suite generation repair likelihood editing --num_samples 4 --sigma 0.2 "
    "--checkpoint {tmp}/run-pairs/best.pt",
]

BENCHMARK = [
    "benchmark --suite generation --num_samples 8 "
    "--sampler autoregressive maskgit hybrid speculative coupled",
    "benchmark --suite generation --num_samples 8 --length 20..30 --sampler spaced_bound --grammar",
    "benchmark --suite generation --num_samples 6 --use_maskgit --no_maskgit --use_hybrid "
    "--coarse_to_fine --maskgit_steps 6 --maskgit_schedule linear --temperature 0.8",
    "benchmark --suite repair --num_samples 4 --sigma 0.2 0.5 --corruption mixed reference",
    "benchmark --suite repair --num_samples 4 --sigma 0.2 --corruption mixed --grammar",
    "benchmark --suite one_edit --num_samples 4 --grammar",
    "benchmark --suite editing --num_samples 10",
    "benchmark --suite likelihood --num_samples 12",
    "benchmark --suite speed --num_samples 2",
    f"benchmark --suite generation likelihood --num_samples 6 {on('json')} checkpoints/v4.pt",
    f"benchmark --suite generation repair --num_samples 4 --sigma 0.2 {on('python-expressions')}",
    "benchmark --suite nothing",
]

SUITES = [
    f"benchmark --suite completion --num_samples 3 --typed 5 12 {on('arithmetic-bpe')}",
    f"benchmark --suite repetition --num_samples 2 {on('arithmetic-bpe')}",
    f"benchmark --suite solve --num_samples 1 --problems test {on('arithmetic-steps')}",
]

REPORTS = [
    "diagnose checkpoints/arithmetic-bpe.pt configs/decode.yaml --num 12",
    "diagnose configs/twin_truncated.yaml configs/decode.yaml",
    "diagnose configs/twin_packed.yaml",
    "diagnose configs/twin_healthy.yaml",
    "diagnose configs/arithmetic-bpe.yaml --checkpoint checkpoints/arithmetic-bpe.pt --num 8",
    "diagnose checkpoints/best.pt --num 4",
    "diagnose configs/missing.yaml",
    "distillation --experiment all --quick --out {tmp}/quick",
    "distillation --experiment rewards --quick --feedback leak --out {tmp}/leak",
    "distillation --experiment nothing --out {tmp}/nothing",
]

CHAT = [{"role": "user", "content": "(+ 3 (* 2 4))"}]
PARTIAL = [*CHAT, {"role": "assistant", "content": "(+ 3 8"}]
COMMON = {"model": "arithmetic-steps", "seed": 3, "max_tokens": 24}
PROMPT = {**COMMON, "prompt": "(+ 3 (* 2 4))"}
REQUESTS = {
    "models": ("GET", "/models", None),
    "model": ("GET", "/models/arithmetic-steps", None),
    "completion": ("POST", "/completions", PROMPT),
    "completion, settings": (
        "POST",
        "/completions",
        {**PROMPT, "n": 2, "temperature": 0.7, "logprobs": 2, "stop": ["8)>", "="]},
    ),
    "completion, prompts": (
        "POST",
        "/completions",
        {**COMMON, "prompt": ["(+ 1 2)", "(* 3 (+ 4 5))"], "temperature": 0},
    ),
    "completion, stream": ("POST", "/completions", {**PROMPT, "stream": True, "logprobs": 1}),
    "chat": ("POST", "/chat/completions", {**COMMON, "messages": CHAT}),
    "chat, settings": (
        "POST",
        "/chat/completions",
        {**COMMON, "messages": CHAT, "n": 2, "logprobs": True, "top_logprobs": 2, "stop": "\n"},
    ),
    "chat, stream": (
        "POST",
        "/chat/completions",
        {**COMMON, "messages": CHAT, "stream": True, "stream_options": {"include_usage": True}},
    ),
    "chat, partial": ("POST", "/chat/completions", {**COMMON, "messages": PARTIAL}),
    "chat, partial, continued": (
        "POST",
        "/chat/completions",
        {
            **COMMON,
            "messages": PARTIAL,
            "continue_final_message": True,
            "add_generation_prompt": False,
        },
    ),
    "unsupported echo": ("POST", "/completions", {**PROMPT, "echo": True}),
    "unsupported top_p": ("POST", "/completions", {**PROMPT, "top_p": 0.9}),
    "no such model": ("POST", "/completions", {**PROMPT, "model": "nothing"}),
    "bad temperature": ("POST", "/completions", {**PROMPT, "temperature": -3}),
    "no messages": ("POST", "/chat/completions", COMMON),
    "no such page": ("GET", "/nothing", None),
}
PREFILLS = ("continue", "restart", "reject", "echo")
CLIENT = f"--base_url {{url}} --model arithmetic-steps --retries 0 {on('arithmetic-steps')}"
SERVE = [
    f"solve --probe --backend chat {CLIENT}",
    f"solve --probe --backend completions {CLIENT}",
    f"solve {PROBLEM} --backend completions --strategy every-step --candidates 2 {CLIENT}",
    f"solve {PROBLEM} --backend chat --strategy adaptive --candidates 2 {CLIENT}",
    f"solve {PROBLEM} --backend chat --fallback best-of-n --candidates 2 {CLIENT}",
    f"solve {PROBLEM} --backend chat --prefill prefix --strategy greedy --no_log_probs {CLIENT}",
]

PAIRS = [
    ",".join(f"{'abc'[(i * j) % 3]}{'ab'[(i + j) % 2]}={(i * 7 + j * 5) % 40}" for j in range(n))
    for i in range(20)
    for n in (1, 2, 3)
]
SUMS = [f"{i} + {(i * 7) % 50}{' - 3' * (i % 3)}" for i in range(60)]
LISTS = [str([(i * j) % 17 for j in range(i % 5 + 1)]).replace(" ", "") for i in range(60)]
FILES = {
    "typed.txt": "(+ 3\n(*\nabc\n(+(*75)\n",
    "broken.txt": "(+(*75)10=45\n\n(+11=2\n(*(+12)3)=9\n(+(*75)10=45\n)))\n",
    "blanks.txt": "(+(*??)10)=45\n(+?1)=5\n(+11)=2\n(??????)=9\n",
    "problems.txt": "(+ 3 4)\n(* (+ 1 2) 5)\nnothing\n(- 9 (* 2 2))\n",
    "pairs/corpus.txt": "\n".join(sorted(set(PAIRS))) + "\n",
    "pairs/grammar.lark": 'start: pair ("," pair)*\npair: NAME "=" NUMBER\n'
    "NAME: /[abc]+/\nNUMBER: /0|[1-9][0-9]*/\n",
    "sums/corpus.txt": "\n".join(SUMS) + "\n",
    "sums/grammar.lark": "start: sum\nsum: NUMBER ((PLUS | MINUS) NUMBER)*\n"
    'PLUS: "+"\nMINUS: "-"\nNUMBER: /[0-9]+/\n%ignore " "\n',
    "lists/corpus.txt": "\n".join(sorted(set(LISTS))) + "\n",
}

SECTIONS = {
    "generate": GENERATE,
    "complete": COMPLETE,
    "repair": REPAIR,
    "edit": EDIT,
    "solve": SOLVE,
    "training": TRAINING,
    "languages": LANGUAGES,
    "benchmark": BENCHMARK,
    "suites": SUITES,
    "reports": REPORTS,
    "serve": SERVE,
}
